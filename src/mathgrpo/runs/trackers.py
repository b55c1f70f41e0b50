"""A run's metrics and completions in the experiment trackers a recipe names, beside the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mathgrpo.errors import UserError, first_line
from mathgrpo.evaluation.records import Evaluation
from mathgrpo.runs.hook import Hook, Run, TakenStep
from mathgrpo.runs.record import rollout_lines
from mathgrpo.runs.tracker_kinds import (
    TensorBoardTracker,
    TrackedRun,
    Tracker,
    TrackioTracker,
    WandbTracker,
    table_rows,
)

KINDS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
}
"""Name in training.trackers, which is the package's and the extra's too -> what opens the tracker."""


def require_trackers(names: Sequence[str]) -> None:
    """Raise UserError, with the extra to install, unless every tracker's package is installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"training.trackers={name}: the package {name} is not installed; "
                f"install it with: pip install 'mathgrpo[{name}]'"
            )


class Trackers(Hook):
    """The trackers of a run that work. None of them can stop it: one that fails is named once and left out."""

    def __init__(self, names: Sequence[str], tracked: TrackedRun, log_groups: int) -> None:
        self._names, self._tracked, self._log_groups = dict.fromkeys(names), tracked, log_groups
        self._opened: dict[str, Tracker] = {}

    def begin(self, run: Run) -> None:
        """Open all of them.

        Raises: UserError when one cannot be opened: before step 0 that is the recipe's mistake, or the network's.
        """
        for name in self._names:
            try:
                self._opened[name] = KINDS[name](self._tracked)
            except Exception as error:  # a tracker can fail in any way of its own
                raise UserError(
                    f"training.trackers={name}: cannot be opened ({first_line(error)}); leave it out"
                    + (", or set WANDB_MODE=offline" if name == "wandb" else "")
                ) from error

    def after_step(self, run: Run, taken: TakenStep) -> None:
        self.step(run, taken.metrics, rollout_lines(taken.number, taken.groups[: self._log_groups]))

    def step(self, run: Run, metrics: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
        """Hand on one step: its line of metrics.jsonl and its lines of rollouts.jsonl."""
        step = int(metrics["step"])
        numbers = {name: value for name, value in metrics.items() if name != "step" and value is not None}
        self._each(run, lambda tracker: tracker.log(step, numbers))
        rows = table_rows(lines)
        if rows:
            self._each(run, lambda tracker: tracker.completions(step, rows))

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        """Hand on the numbers of an evaluation's summary, as heldout/<number> or templates/<number>."""
        problems, found = "templates" if name.endswith("-templates") else "heldout", evaluation.summary()
        numbers = {f"{problems}/{key}": float(value) for key, value in found.items() if isinstance(value, int | float)}
        self._each(run, lambda tracker: tracker.log(run.step, numbers))

    def close(self, run: Run, status: str) -> None:
        self._each(run, lambda tracker: tracker.close(status))
        self._opened.clear()

    def _each(self, run: Run, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._opened.items()):
            try:
                act(tracker)
            except Exception as error:  # a tracker can fail in any way of its own
                del self._opened[name]
                run.tell("told", f"note: {name} failed ({first_line(error)}); the run goes on without it")
