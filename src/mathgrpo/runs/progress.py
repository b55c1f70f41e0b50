"""What a run shows while it goes on: a live display in a terminal, one line a step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from statistics import fmean
from types import TracebackType
from typing import Self

from mathgrpo.evaluation.records import Evaluation
from mathgrpo.runs.hook import Hook, Run, TakenStep
from mathgrpo.runs.speedometer import speed_line
from mathgrpo.text import duration, printable

RECENT_STEPS = 20
"""Steps whose mean duration says how long the rest takes."""
SPEED_EVERY = 10
"""Steps between two lines about speed in plain text; the first comes after the first step."""
LINE_WIDTH = 80
"""Width of a line at most."""
PARTS = {
    "reward": ("reward {:.3f}", 1.0),
    "accuracy": ("correct {:.0f} %", 100.0),
    "completions/mean_length": ("length {:.0f}", 1.0),
    "tokens_per_s": ("{:,.0f} tok/s", 1.0),
    "mfu/step": ("MFU {:.0f} %", 100.0),
    "time/step": ("{:.1f} s", 1.0),
}
"""Metric -> its words in a step's line, and a factor."""
LEAST_TELLING = ("completions/mean_length", "time/step", "left")


class TextProgress(Hook):
    """Plain lines, for files and pipes: steps, evaluations and notes. It is entered for the time of a run.

    brief: show steps and evaluations alone; the run is one of many.

    Attributes:
        evaluate_every: steps between evaluations, 0 for none.
    """

    evaluate_every = 0

    def __init__(self, *, brief: bool = False) -> None:
        self._brief, self._doing, self._evaluation_s = brief, "", 0.0
        self._durations: list[float] = []
        self._since_speed: list[Mapping[str, float]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        """Print a line."""
        print(printable(text), flush=True)

    def doing(self, what: str, done: int, total: int) -> None:
        """Print the name of what is counted when it begins."""
        if what != self._doing:
            self.say(f"{what}: {total:,} completions")
        self._doing = what

    def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float) -> None:
        """Print the step's line, and now and then one about speed."""
        self.say(step_line(metrics, steps, seconds_left))
        self._since_speed.append(metrics)
        if metrics["step"] % SPEED_EVERY == 0 or (len(self._since_speed) == 1 and metrics["step"] == 1):
            line = speed_line(self._since_speed)
            self._since_speed = []
            if line:
                self.say(line)

    def counted(self, run: Run, what: str, done: int, total: int) -> None:
        self.doing(what, done, total)

    def after_step(self, run: Run, taken: TakenStep) -> None:
        """Show the step, and the time that is left."""
        self._durations = [*self._durations, taken.seconds][-RECENT_STEPS:]
        known = {name: value for name, value in taken.metrics.items() if value is not None}
        self.step(known, run.task.steps, self.seconds_left(run.task.steps, taken.number))

    def seconds_left(self, steps: int, done: int) -> float:
        """Return the seconds until the end, as long as the last steps and evaluations took."""
        every = self.evaluate_every
        between = (steps - 1) // every - (done - 1) // every if every else 0
        return (steps - done) * fmean(self._durations) + (1 + max(0, between)) * self._evaluation_s

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        """Show the evaluation in a line."""
        self._evaluation_s = seconds + (self._evaluation_s if name.endswith("-templates") else 0.0)
        summary = evaluation.summary()
        sampled = f", sampled {100 * summary['sampled/accuracy']:.1f} %" if "sampled/accuracy" in summary else ""
        self.say(
            f"{'  ' if self._brief else ''}evaluation {name}: accuracy {100 * summary['accuracy']:.1f} %{sampled}"
            f"{evaluation.by}, in format {100 * summary['format_rate']:.0f} %, {summary['problems']:,} problems"
        )

    def noted(self, run: Run, note: str) -> None:
        self.told(run, f"note: {note}")

    def told(self, run: Run, text: str) -> None:
        if not self._brief:
            self.say(text)


def make_progress(*, brief: bool = False) -> TextProgress:
    """Return a live display when standard output is a terminal, plain lines otherwise."""
    if not sys.stdout.isatty():
        return TextProgress(brief=brief)
    from mathgrpo.runs.live import LiveProgress

    return LiveProgress(brief=brief)


def step_line(metrics: Mapping[str, float], steps: int, seconds_left: float) -> str:
    """Return a step in one line of at most 80 columns; what has no room is left out, the least telling first.

    Example:
        >>> step_line({"step": 3, "reward": 0.5, "accuracy": 0.25, "tokens_per_s": 1234.5, "time/step": 2.0,
        ...            "mfu/step": 0.124}, 10, 14.0)
        'step 3/10  reward 0.500  correct 25 %  1,234 tok/s  MFU 12 %  2.0 s  14 s left'
    """
    shown = {"step": f"step {metrics['step']:.0f}/{steps}"}
    shown |= {name: words.format(factor * metrics[name]) for name, (words, factor) in PARTS.items() if name in metrics}
    shown["left"] = f"{duration(seconds_left)} left"
    for name in LEAST_TELLING:
        if len("  ".join(shown.values())) > LINE_WIDTH:
            shown.pop(name, None)
    return "  ".join(shown.values())
