"""The display that stays in place at the bottom of a terminal: bars, the last steps' numbers, where the time goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
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
"""Metric -> column title, format and factor."""
FIRST_LEFT_OUT = (
    "mfu/step",
    "entropy",
    "grad_norm",
    "tokens_per_s",
    "completions/mean_length",
    "format_rate",
    "time/step",
)
"""Metrics in the order in which a narrow terminal does without them: a column less, never a number cut."""
BAR_WIDTH = 30
_GAP = 2


class LiveProgress(TextProgress):
    """A display that stays in place at the bottom of a terminal."""

    def __init__(self, *, brief: bool = False) -> None:
        super().__init__(brief=brief)
        self._console = Console(highlight=False, markup=False)
        words = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[beside]}", markup=False)
        bar = BarColumn(None, table_column=Column(max_width=BAR_WIDTH))  # narrower where the terminal is
        self._bars = Progress(words[0], bar, words[1], console=self._console)
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
        below = (StepTable(self._rows), Text(speed_line(self._rows), style="dim")) if self._rows else ()
        return Group(self._bars, *below)


class StepTable:
    """The last steps' numbers, as many columns as the terminal has room for."""

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        self._cells = {
            metric: [pattern.format(factor * row[metric]) if metric in row else "" for row in rows]
            for metric, (_, pattern, factor) in COLUMNS.items()
            if any(metric in row for row in rows)
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the table."""
        cells = self._fitting(options.max_width)
        table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim")
        for metric in cells:
            table.add_column(COLUMNS[metric][0], justify="right", no_wrap=True)
        for row in zip(*cells.values(), strict=True):
            table.add_row(*row)
        yield table

    def _fitting(self, width: int) -> dict[str, list[str]]:
        """Return the columns that fit into a width."""
        cells = dict(self._cells)
        for metric in FIRST_LEFT_OUT:
            if sum(max(map(len, (COLUMNS[name][0], *texts))) + _GAP for name, texts in cells.items()) <= width:
                break
            cells.pop(metric, None)
        return cells
