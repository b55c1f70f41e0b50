"""The live display as a picture of a run's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

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

SPLIT = {"time/rollout": ("rollout", "cyan"), "time/reward": ("reward", "yellow"), "time/update": ("update", "magenta")}
SPLIT_WIDTH = 30
MACHINE = {
    "roofline/rollout": ("rollout {:.0f} % of roofline", 100.0),
    "mfu/update": ("update {:.0f} % MFU", 100.0),
    "memory/peak_gb": ("{:.1f} GB", 1.0),
    "memory/device_peak_gb": ("{:.1f} GB on the device", 1.0),
}
"""Metric -> its words in the line below the time split, and a factor."""


def live_view(
    rows: Sequence[Mapping[str, float]], steps: int, time_left: str, doing: tuple[str, int, int]
) -> RenderableType:
    """Return the display: a bar over the steps, the last steps' numbers, the time split, and what is going on now."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    what, done, total = doing
    parts: list[RenderableType] = []
    if rows:
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=steps, completed=rows[-1]["step"], width=SPLIT_WIDTH)
        head.add_row(Text(f"step {rows[-1]['step']:.0f} of {steps}", style="bold"), bar, Text(time_left))
        parts += [head, _table(rows[-SHOWN_STEPS:]), _split(rows[-SHOWN_STEPS:]), _machine(rows[-SHOWN_STEPS:])]
    if total:
        now = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=total, completed=done, width=SPLIT_WIDTH)
        now.add_row(Text(what), bar, Text(f"{done:,} of {total:,}"))
        parts.append(now)
    else:
        parts.append(Text(what, style="dim"))
    return Group(*parts)


def time_shares(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the shares of rollout, reward and update in the time of some steps; they sum to 1.

    Example:
        >>> time_shares([{"time/rollout": 3.0, "time/reward": 0.0, "time/update": 1.0}])
        {'rollout': 0.75, 'reward': 0.0, 'update': 0.25}
    """
    sums = {title: sum(row.get(metric, 0.0) for row in rows) for metric, (title, _) in SPLIT.items()}
    whole = sum(sums.values())
    return {title: seconds / whole if whole else 0.0 for title, seconds in sums.items()}


def _table(rows: Sequence[Mapping[str, float]]) -> RenderableType:
    from rich.table import Table

    shown = {metric: column for metric, column in COLUMNS.items() if any(metric in row for row in rows)}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title, _, _ in shown.values():
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            *(
                pattern.format(factor * row[metric]) if metric in row else ""
                for metric, (_, pattern, factor) in shown.items()
            )
        )
    return table


def _split(rows: Sequence[Mapping[str, float]]) -> RenderableType:
    from rich.text import Text

    text = Text("time  ", style="dim")
    shares = time_shares(rows)
    for title, colour in SPLIT.values():
        text.append("█" * round(SPLIT_WIDTH * shares[title]), style=colour)
    for title, colour in SPLIT.values():
        text.append(f"  {title} {100 * shares[title]:.0f} %", style=colour)
    return text


def _machine(rows: Sequence[Mapping[str, float]]) -> RenderableType:
    """Return which shares of the machine the rollout and the update reach, and the memory they take."""
    from rich.text import Text

    shown = [
        pattern.format(factor * sum(reached) / len(reached))
        for metric, (pattern, factor) in MACHINE.items()
        if (reached := [row[metric] for row in rows if metric in row])
    ]
    return Text(("reach " + ", ".join(shown)) if shown else "", style="dim")
