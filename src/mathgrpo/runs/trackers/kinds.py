"""The trackers: trackio, W&B, TensorBoard; never in the run's way, never a login prompt."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mathgrpo.runs.trackers.tracker import COLUMNS, TrackedRun


class TensorBoardTracker:
    """Scalars and completions in RUN/tensorboard; look at them with: tensorboard --logdir RUN."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # What an interrupted run wrote after its checkpoint is purged by TensorBoard when it reads the next file.
        purge = run.step + 1 if run.step else None
        self._writer = SummaryWriter(log_dir=str(run.folder / "tensorboard"), purge_step=purge)
        self._writer.add_text("recipe", _verbatim(_toml_like(run.config)), run.step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Write the completions as one text, each under its facts, nothing of it read as Markdown."""
        texts = []
        for row in rows:
            fields = dict(zip(COLUMNS, row, strict=True))
            facts = ", ".join(f"{name} {fields[name]}" for name in ("verdict", "reward", "advantage", "tokens"))
            texts.append(f"{fields['question']}\ngold {fields['gold']}; {facts}\n\n{fields['completion']}\n")
        self._writer.add_text("completions", _verbatim("\n----\n".join(texts)), step)

    def close(self, status: str) -> None:
        """Write out what is left."""
        self._writer.add_text("status", status)
        self._writer.close()


def _verbatim(text: str) -> str:
    """Return text as a Markdown code block: four spaces before every line, whatever it holds."""
    return "\n".join("    " + line for line in text.splitlines())


def _toml_like(config: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{section}.{name} = {value}"
        for section, fields in config.items()
        for name, value in (fields.items() if isinstance(fields, Mapping) else (("", fields),))
    )


class TrackioTracker:
    """A run in trackio's local database ($TRACKIO_DIR).

    A resumed run is continued under its name; steps it takes again are in the database twice, later ones last.
    """

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        with _silence():
            self._run = trackio.init(
                project=run.project,
                name=run.name,
                config=dict(run.config),
                resume="allow" if run.step else "never",
                embed=False,  # no dashboard in a notebook
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue a step's metrics; trackio writes in a thread of its own."""
        self._run.log(dict(metrics), step=step)

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Queue the completions as a table."""
        table = self._trackio.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"completions": table}, step=step)

    def close(self, status: str) -> None:
        """Write out what is queued."""
        del status  # trackio keeps no status that is ours to set
        with _silence():
            self._trackio.finish()


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Return the context in which trackio's greetings go nowhere: they would break the live display."""
    return contextlib.redirect_stdout(io.StringIO())


OFFLINE = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What WANDB_MODE may hold that keeps a run on this machine -> W&B's mode for it."""
ONLINE = ("online", "run", "shared")


class WandbTracker:
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
        self._wandb = wandb
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            dir=str(run.folder),
            config=dict(run.config),
            mode=mode,
            resume="allow" if run.step and mode == "online" else None,
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue a step's metrics; W&B writes in a process of its own."""
        self._run.log(dict(metrics) | {"step": step})

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Queue the completions as a table."""
        table = self._wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"completions": table, "step": step})

    def close(self, status: str) -> None:
        """Write out what is queued; a failed run ends with exit code 1."""
        self._run.finish(exit_code=1 if status == "failed" else 0)


def wandb_mode() -> Any:
    """Return W&B's mode: $WANDB_MODE where it is set, online when a key is at hand, else offline.

    Online without a key is where W&B would ask for one; here it only looks for one where a login leaves it.
    """
    import wandb

    chosen = os.environ.get("WANDB_MODE", "")
    if chosen in OFFLINE:
        return OFFLINE[chosen]
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def require_known_mode() -> None:
    """Return when WANDB_MODE says something that W&B knows; set to nothing it is not set.

    Raises: ValueError otherwise. Nobody goes online by a slip of the pen.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen == "":
        del os.environ["WANDB_MODE"]
    elif chosen is not None and chosen not in (*OFFLINE, *ONLINE):
        raise ValueError(f"WANDB_MODE={chosen}; allowed: online, offline, disabled")
