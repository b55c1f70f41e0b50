"""The hook that shows a run while it goes on."""

from __future__ import annotations

from mathgrpo.evaluation.records import Evaluation
from mathgrpo.runs.hook import Hook, Run, TakenStep
from mathgrpo.runs.progress import Pace, Progress


class Display(Hook):
    """Shows steps, evaluations and notes, and how long the run still takes.

    evaluate_every: steps between evaluations, 0 for none.
    """

    def __init__(self, progress: Progress, evaluate_every: int) -> None:
        self._progress, self._every = progress, evaluate_every
        self._pace, self._evaluation_s = Pace(), 0.0

    def doing(self, run: Run, what: str, done: int = 0, total: int = 0) -> None:
        """Show what goes on."""
        self._progress.doing(what, done, total)

    def after_step(self, run: Run, taken: TakenStep) -> None:
        """Show the step, and the time that is left."""
        self._pace.step(taken.seconds)
        left = run.task.steps - taken.number
        between = (run.task.steps - 1) // self._every - (taken.number - 1) // self._every if self._every else 0
        known = {name: value for name, value in taken.metrics.items() if value is not None}
        self._progress.step(known, run.task.steps, self._pace.seconds_left(left, 1 + max(0, between)))

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        """Show the evaluation in a line."""
        self._evaluation_s = seconds + (self._evaluation_s if name.endswith("-templates") else 0.0)
        self._pace.evaluation(self._evaluation_s)
        summary = evaluation.summary()
        sampled = f", sampled {100 * summary['sampled/accuracy']:.1f} %" if "sampled/accuracy" in summary else ""
        self.say(
            run,
            f"evaluation {name}: accuracy {100 * summary['accuracy']:.1f} %{sampled}, "
            f"in format {100 * summary['format_rate']:.0f} %, {summary['problems']:,} problems",
        )

    def noted(self, run: Run, note: str) -> None:
        """Show the note."""
        self.say(run, f"note: {note}")

    def say(self, run: Run, text: str) -> None:
        """Show a line."""
        self._progress.say(text)
