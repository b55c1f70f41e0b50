"""What a run shows while it goes on: a live display in a terminal, one line a step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
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


class Pace:
    """How long a run still takes, from the steps and the evaluation it has seen."""

    def __init__(self) -> None:
        self._durations: list[float] = []
        self._evaluation_s = 0.0

    def step(self, seconds: float) -> None:
        """Note how long a step took."""
        self._durations = [*self._durations, seconds][-RECENT_STEPS:]

    def evaluation(self, seconds: float) -> None:
        """Note how long an evaluation took."""
        self._evaluation_s = seconds

    def seconds_left(self, steps_left: int, evaluations_left: int) -> float | None:
        """Return the seconds until the end, None before the first step."""
        if not self._durations:
            return None
        return steps_left * sum(self._durations) / len(self._durations) + evaluations_left * self._evaluation_s


class Progress:
    """Where a run tells how it goes, entered for the time of the run. This one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show what is going on now, and how far it is."""

    def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float | None) -> None:
        """Show a step that is done."""


class SilentProgress(Progress):
    """Nothing at all: what every process but the main one shows."""


class TextProgress(Progress):
    """Plain lines, for files and pipes."""

    def __init__(self) -> None:
        self._doing = ""
        self._since_speed: list[Mapping[str, float]] = []

    def say(self, text: str) -> None:
        """Print a line."""
        print(printable(text), flush=True)

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        """Print the name of an evaluation when it begins; the stages of a step are too short for a line each."""
        if total and what != self._doing:
            self.say(f"{what}: {total:,} completions")
        self._doing = what

    def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float | None) -> None:
        """Print the step's line, and now and then one about speed."""
        self.say(step_line(metrics, steps, seconds_left))
        self._since_speed.append(dict(metrics))
        if metrics["step"] % SPEED_EVERY == 0 or (len(self._since_speed) == 1 and metrics["step"] == 1):
            line = speed_line(self._since_speed)
            self._since_speed = []
            if line:
                self.say(line)


def make_progress() -> Progress:
    """Return a live display when standard output is a terminal, plain lines otherwise."""
    if not sys.stdout.isatty():
        return TextProgress()
    from mathgrpo.runs.live import LiveProgress

    return LiveProgress()


def step_line(metrics: Mapping[str, float], steps: int, seconds_left: float | None) -> str:
    """Return a step in one line of at most 80 columns; what has no room is left out, the least telling first.

    Example:
        >>> step_line({"step": 3, "reward": 0.5, "accuracy": 0.25, "tokens_per_s": 1234.5, "time/step": 2.0,
        ...            "mfu/step": 0.124}, 10, 14.0)
        'step 3/10  reward 0.500  correct 25 %  1,234 tok/s  MFU 12 %  2.0 s  14 s left'
    """
    shown = {"step": f"step {metrics['step']:.0f}/{steps}"}
    shown |= {name: words.format(factor * metrics[name]) for name, (words, factor) in PARTS.items() if name in metrics}
    shown |= {"left": f"{duration(seconds_left)} left"} if seconds_left is not None else {}
    for name in LEAST_TELLING:
        if len("  ".join(shown.values())) > LINE_WIDTH:
            shown.pop(name, None)
    return "  ".join(shown.values())


def clock() -> float:
    """Return seconds on a clock that only moves forward."""
    return time.perf_counter()


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
