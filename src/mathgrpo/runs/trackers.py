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
    """Return when every tracker's package is installed.

    Raises: UserError that names the extra to install.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"training.trackers={name}: the package {name} is not installed; "
                f"install it with: pip install 'mathgrpo[{name}]'"
            )


def open_trackers(names: Sequence[str], run: TrackedRun, warn: Callable[[str], None], log_groups: int = 0) -> Trackers:
    """Return the trackers of a run, opened.

    warn: where to say, once for each, that a tracker failed while the run went on.
    Raises: UserError when one cannot be opened: before step 0 that is the recipe's mistake, or the network's.
    """
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = KINDS[name](run)
        except Exception as error:  # a tracker can fail in any way of its own
            Trackers(opened, warn).close_all("failed")
            raise UserError(
                f"training.trackers={name}: cannot be opened ({first_line(error)}); leave it out"
                + (", or set WANDB_MODE=offline" if name == "wandb" else "")
            ) from error
    return Trackers(opened, warn, log_groups)


class Trackers(Hook):
    """The trackers of a run that work. None of them can stop it: one that fails is named once and left out."""

    def __init__(self, opened: Mapping[str, Tracker], warn: Callable[[str], None], log_groups: int = 0) -> None:
        self._opened, self._warn, self._log_groups = dict(opened), warn, log_groups

    def after_step(self, run: Run, taken: TakenStep) -> None:
        self.step(taken.metrics, rollout_lines(taken.number, taken.groups[: self._log_groups]))

    def step(self, metrics: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
        """Hand on one step: its line of metrics.jsonl and its lines of rollouts.jsonl."""
        step = int(metrics["step"])
        numbers = {name: value for name, value in metrics.items() if name != "step" and value is not None}
        self._each(lambda tracker: tracker.log(step, numbers))
        rows = table_rows(lines)
        if rows:
            self._each(lambda tracker: tracker.completions(step, rows))

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        """Hand on the numbers of an evaluation's summary, as heldout/<number> or templates/<number>."""
        problems = "templates" if name.endswith("-templates") else "heldout"
        numbers = {
            f"{problems}/{key}": float(value)
            for key, value in evaluation.summary().items()
            if isinstance(value, int | float)
        }
        self._each(lambda tracker: tracker.log(run.step, numbers))

    def close(self, run: Run, status: str) -> None:
        self.close_all(status)

    def close_all(self, status: str) -> None:
        """Close all of them."""
        self._each(lambda tracker: tracker.close(status))
        self._opened.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._opened.items()):
            try:
                act(tracker)
            except Exception as error:  # a tracker can fail in any way of its own
                del self._opened[name]
                self._warn(f"note: {name} failed ({first_line(error)}); the run goes on without it")
