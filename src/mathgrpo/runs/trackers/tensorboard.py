"""TensorBoard: event files in the run folder."""

from __future__ import annotations

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
