"""What a run writes down: its folder and its trackers. Of several processes only the main one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mathgrpo.errors import UserError
from mathgrpo.evaluation import write_evaluation, write_verdict
from mathgrpo.evaluation.records import Evaluation
from mathgrpo.models import Policy
from mathgrpo.runs.checkpoint import TrainingState, save_checkpoint
from mathgrpo.runs.metrics import batch_lines, rollout_lines
from mathgrpo.runs.run_folder import METRICS, ROLLOUTS, append_lines, write_info
from mathgrpo.runs.run_info import finished_info, verdict_text
from mathgrpo.runs.trackers import Trackers, open_trackers
from mathgrpo.runs.trackers.tracker import TrackedRun
from mathgrpo.types import RolloutGroup


@dataclass(slots=True)
class RunRecord:
    """The run folder and the trackers of a run under way.

    Attributes:
        info: run.json as it is on disk.
        writes: whether this process is the one that writes; in the others every method does nothing.
    """

    folder: Path
    info: dict[str, Any]
    trackers: Trackers
    writes: bool = True

    def step(self, metrics: Mapping[str, float], groups: Sequence[RolloutGroup]) -> None:
        """Append a step's metrics, and the groups of completions that are to be kept."""
        if not self.writes:
            return
        append_lines(self.folder / METRICS, [dict(metrics)])
        lines = rollout_lines(int(metrics["step"]), groups)
        append_lines(self.folder / ROLLOUTS, lines)
        self.trackers.step(metrics, lines)

    def evaluation(self, step: int, name: str, evaluation: Evaluation) -> None:
        """Write an evaluation made after a step."""
        if self.writes:
            write_evaluation(evaluation, self.folder, name)
            self.trackers.evaluation(step, name, evaluation.summary())

    def verdict(self) -> list[str]:
        """Write the verdict on the run's evaluations, and return it for a reader."""
        return verdict_text(write_verdict(self.folder)) if self.writes else []

    def notes(self, notes: Sequence[str], say: Callable[[str], None]) -> None:
        """Put new notes into run.json and on the screen."""
        new = [note for note in notes if note not in self.info["notes"]]
        if new and self.writes:
            self.info["notes"] = [*self.info["notes"], *new]
            write_info(self.folder, self.info)
            for note in new:
                say(f"note: {note}")

    def checkpoint(
        self, policy: Policy, optimizer: torch.optim.Optimizer, state: TrainingState, keep: int
    ) -> Path | None:
        """Return the checkpoint of the run as it is now; None before the first step, which needs none."""
        if state.step == 0 or not self.writes:
            return None
        return save_checkpoint(self.folder, policy, optimizer, state, keep)

    def failed_batch(self, step: int, groups: Sequence[RolloutGroup]) -> Path:
        """Return the file with the batch of a step that failed."""
        path = self.folder / f"failed-step-{step}.jsonl"
        if self.writes:
            append_lines(path, batch_lines(step, groups))
        return path

    def end(self, status: str, step: int) -> None:
        """Note how the run ended, in run.json and with its trackers."""
        if self.writes:
            write_info(self.folder, finished_info(self.info, status, step))
            self.trackers.close(status)


def open_record(
    info: dict[str, Any], trackers: Sequence[str], run: TrackedRun, say: Callable[[str], None], *, writes: bool
) -> RunRecord:
    """Return the record of a run with its trackers open.

    Raises: UserError when one cannot be opened; run.json then says that the run failed.
    """
    record = RunRecord(run.folder, info, Trackers({}, say), writes)
    try:
        record.trackers = open_trackers(trackers if writes else (), run, say)
    except UserError:
        record.end("failed", run.step)
        raise
    return record
