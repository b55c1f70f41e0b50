"""The display that stays in place at the bottom of a terminal: bars, the last steps' numbers, where the time goes."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from mathgrpo.runs.hook import Run
from mathgrpo.runs.progress import TextProgress
from mathgrpo.runs.speedometer import speed_line
from mathgrpo.text import duration, printable

SHOWN_STEPS = 6
COLUMNS = {
    "step": ("step", "{:.0f}", 1.0),
    "reward": ("reward", "{:.3f}", 1.0),
    "accuracy": ("correct", "{:.1f} %", 100.0),
    "format_rate": ("format", "{:.0f} %", 100.0),
    "completions/mean_length": ("length", "{:.0f}", 1.0),
    "entropy": ("entropy", "{:.3f}", 1.0),
    "grad_norm": ("grad", "{:.3f}", 1.0),
    "tokens_per_s": ("tok/s", "{:,.0f}", 1.0),
    "mfu/step": ("MFU", "{:.0f} %", 100.0),
    "time/step": ("s", "{:.1f}", 1.0),
}
"""Metric -> column title, format and factor; together at most 80 columns wide."""
BAR_WIDTH = 30


class LiveProgress(TextProgress):
    """A display that stays in place at the bottom of a terminal."""

    def __init__(self, *, brief: bool = False) -> None:
        super().__init__(brief=brief)
        self._console = Console(highlight=False, markup=False)
        words = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[beside]}", markup=False)
        self._bars = Progress(words[0], BarColumn(BAR_WIDTH), words[1], console=self._console)
        self._steps, self._now = (self._bars.add_task("", visible=False, total=1, beside="") for _ in range(2))
        self._rows: list[Mapping[str, float]] = []
        self._live = Live(console=self._console, get_renderable=self.picture, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print a line above the display."""
        self._console.print(printable(text), soft_wrap=True)

    def stage(self, run: Run, what: str) -> None:
        """Show what is going on now."""
        self.doing(what, 0, 0)

    def doing(self, what: str, done: int, total: int) -> None:
        """Show what is going on now; a bar where it is known how far."""
        beside = f"{done:,} of {total:,}" if total else ""
        self._bars.update(
            self._now, description=what, completed=done, total=total or None, beside=beside, visible=bool(what)
        )

    def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float) -> None:
        """Add the step to the table."""
        self._rows = [*self._rows, dict(metrics)][-SHOWN_STEPS:]
        left = f"{duration(seconds_left)} left"
        done = metrics["step"]
        self._bars.update(
            self._steps, description=f"step {done:.0f} of {steps}", completed=done, total=steps, beside=left,
            visible=True,
        )  # fmt: skip

    def picture(self) -> Group:
        """Return the display as it is now."""
        below = (self._table(), Text(speed_line(self._rows), style="dim")) if self._rows else ()
        return Group(self._bars, *below)

    def _table(self) -> Table:
        shown = {metric: column for metric, column in COLUMNS.items() if any(metric in row for row in self._rows)}
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title, _, _ in shown.values():
            table.add_column(title, justify="right")
        for row in self._rows:
            table.add_row(*(
                pattern.format(factor * row[metric]) if metric in row else ""
                for metric, (_, pattern, factor) in shown.items()
            ))  # fmt: skip
        return table
