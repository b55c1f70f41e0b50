"""The trackers: trackio, W&B, TensorBoard; never in the run's way, never a login prompt."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathgrpo.files import to_json

COLUMNS = ("step", "question", "gold", "completion", "verdict", "reward", "advantage", "tokens")
"""Columns of the completions table."""


def table_rows(lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return lines of rollouts.jsonl as rows of COLUMNS, one a completion."""
    return [
        [line[name] for name in COLUMNS[:3]] + [completion["text"]] + [completion[name] for name in COLUMNS[4:]]
        for line in lines
        for completion in line["completions"]
    ]


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told of a run when it opens.

    Attributes:
        project: the tracker's project.
        folder: the run folder; its name is the run's.
        started: when the run first started; the same after a resume.
        config: the resolved recipe as JSON data.
        step: steps done already; more than 0 means that the run is resumed.
    """

    project: str
    folder: Path
    started: str
    config: Mapping[str, Any]
    step: int

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.resolve().name

    @property
    def id(self) -> str:
        """A name no other run has, the same after a resume."""
        return hashlib.sha256(f"{self.name} {self.started}".encode()).hexdigest()[:16]


class Tracker:
    """Takes one run's metrics. Any exception it raises ends the tracking, never the run.

    Attributes:
        library: the module whose Table shows completions.
    """

    library: Any

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take a step's metrics."""
        raise NotImplementedError

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Take a step's completions, one row of COLUMNS each. Model text is untrusted."""
        table = self.library.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self.log(step, {"completions": table})

    def close(self, status: str) -> None:
        """Write out what is left; status: how the run ended."""
        raise NotImplementedError


class TensorBoardTracker(Tracker):
    """Scalars and completions in RUN/tensorboard; look at them with: tensorboard --logdir RUN."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # What an interrupted run wrote after its checkpoint is purged by TensorBoard when it reads the next file.
        purge = run.step + 1 if run.step else None
        self._writer = SummaryWriter(log_dir=str(run.folder / "tensorboard"), purge_step=purge)
        self._writer.add_text("recipe", _verbatim(to_json(run.config, indent=2)), run.step)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Write the completions as one text, each under its facts, nothing of it read as Markdown."""
        texts = [
            f"{question}\ngold {gold}; verdict {verdict}, reward {reward}, advantage {advantage}, tokens {tokens}\n\n"
            f"{completion}\n"
            for _, question, gold, completion, verdict, reward, advantage, tokens in rows
        ]
        self._writer.add_text("completions", _verbatim("\n----\n".join(texts)), step)

    def close(self, status: str) -> None:
        self._writer.add_text("status", status)
        self._writer.close()


def _verbatim(text: str) -> str:
    """Return text as a Markdown code block: four spaces before every line, whatever it holds."""
    return "\n".join("    " + line for line in text.splitlines())


class TrackioTracker(Tracker):
    """A run in trackio's local database ($TRACKIO_DIR).

    A resumed run is continued under its name; steps it takes again are in the database twice, later ones last.
    """

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self.library = trackio
        with _silence():
            self._run = trackio.init(
                project=run.project, name=run.name, config=dict(run.config), resume="allow" if run.step else "never",
                embed=False, auto_log_cpu=False, auto_log_gpu=False,  # embed: no dashboard in a notebook
            )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Queue a step's metrics; trackio writes in a thread of its own."""
        self._run.log(dict(metrics), step=step)

    def close(self, status: str) -> None:
        """Write out what is queued; trackio keeps no status that is ours to set."""
        with _silence():
            self.library.finish()


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Return the context in which trackio's greetings go nowhere: they would break the live display."""
    return contextlib.redirect_stdout(io.StringIO())


class WandbTracker(Tracker):
    """A W&B run, in RUN/wandb; an offline one is uploaded with: wandb sync RUN/wandb/offline-run-*.

    A resumed run has the id it had: online it is continued, offline a second folder of the same id is written, which
    `wandb sync --append` adds to the first. The step is a metric of its own and every chart's x-axis, because W&B drops
    what is logged for a step it has seen, as a resumed run may.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        require_known_mode()
        # silent and console: nothing of W&B's on the terminal; git and code: nothing of the user's folder goes up.
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, save_code=False, init_timeout=30
        )
        wandb.setup(settings=settings)
        mode = wandb_mode()
        self.library = wandb
        self._run = wandb.init(
            project=run.project, name=run.name, id=run.id, dir=str(run.folder), config=dict(run.config), mode=mode,
            resume="allow" if run.step and mode == "online" else None, settings=settings,
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Queue a step's metrics; W&B writes in a process of its own."""
        self._run.log(dict(metrics) | {"step": step})

    def close(self, status: str) -> None:
        """Write out what is queued; a failed run ends with exit code 1."""
        self._run.finish(exit_code=1 if status == "failed" else 0)


_OFFLINE = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What WANDB_MODE may hold that keeps a run on this machine -> W&B's mode for it."""


def wandb_mode() -> Any:
    """Return W&B's mode: $WANDB_MODE where it is set, online when a key is at hand, else offline.

    Online without a key is where W&B would ask for one; here it only looks for one where a login leaves it.
    """
    import wandb

    here = _OFFLINE.get(os.environ.get("WANDB_MODE", ""))
    return here or ("online" if wandb.login(prompt=False, verify=False) else "offline")


def require_known_mode() -> None:
    """Return when WANDB_MODE says something that W&B knows; set to nothing it is not set.

    Raises: ValueError otherwise. Nobody goes online by a slip of the pen.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen == "":
        del os.environ["WANDB_MODE"]
    elif chosen is not None and chosen not in (*_OFFLINE, "online", "run", "shared"):
        raise ValueError(f"WANDB_MODE={chosen}; allowed: online, offline, disabled")
