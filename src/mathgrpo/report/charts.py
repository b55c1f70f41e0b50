"""Charts as inline SVG, drawn by matplotlib, coloured by the page's style sheet.

Why matplotlib: its SVG needs no script (the page's content policy allows none but the filters'), is about 8 kB a chart
where a script library adds 0.8 to 5 MB to every page, and prints. Every colour drawn is a stand-in that becomes a CSS
variable, so one drawing serves light and dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathgrpo.text import number, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 300
"""Points drawn of a curve; a longer one is averaged over neighbours."""
NUM_COLOURS = 8
INK, MUTED, GRID, GOOD, BAD = (f"#0{i}0{i}0{i}" for i in range(1, 6))
VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", GOOD: "--good", BAD: "--bad",
    **{f"#0000{i:02d}": f"--c{i}" for i in range(1, NUM_COLOURS + 1)},
}  # fmt: skip
"""Stand-in colour -> the CSS variable that takes its place; curves take C0, C1, ... of the style's cycle."""
STYLE = Path(__file__).parent / "templates" / "charts.mplstyle"


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: step -> value, and where there is one the half width of a band, or an interval, around each value.

    exact: not smoothed.
    """

    label: str
    points: Mapping[int, float]
    band: Mapping[int, float] = field(default_factory=dict)
    intervals: Sequence[tuple[float, float]] = ()
    exact: bool = False


def draw_lines(axes: Axes, series: Sequence[Series], *, percent: bool = False, log: bool = False) -> None:
    """Draw curves over steps: thin as measured, thick smoothed."""
    for i, one in enumerate(series):
        steps, values = thinned(one.points)
        smooth = values if one.exact else smoothed(values)
        if one.band.keys() == one.points.keys():
            edges = list(zip(smooth, smoothed(thinned(one.band)[1]), strict=True))
            low, high = [s - half for s, half in edges], [s + half for s, half in edges]
            axes.fill_between(steps, low, high, color=f"C{i}", alpha=0.13, lw=0)
        axes.plot(steps, values, color=f"C{i}", alpha=0.32, lw=0.9)
        axes.plot(steps, smooth, color=f"C{i}", marker="o" if len(steps) == 1 else "")
    _scale(axes, [v for one in series for v in one.points.values()], percent, log)


def draw_areas(axes: Axes, series: Sequence[Series]) -> None:
    """Draw areas stacked over the steps that all have, the first at the bottom."""
    layers = [thinned(one.points)[1] for one in series]
    colours = [f"C{i}" for i in range(len(series))]
    axes.stackplot(thinned(series[0].points)[0], layers, colors=colours, alpha=0.8, linewidth=0)
    _scale(axes, [v for layer in layers for v in layer])


def draw_intervals(axes: Axes, series: Sequence[Series]) -> None:
    """Draw shares over steps with their intervals as bars: one accuracy per evaluation."""
    for i, one in enumerate(series):
        around = list(zip(one.points.values(), one.intervals, strict=True))
        errors = [[max(v - low, 0) for v, (low, _) in around], [max(high - v, 0) for v, (_, high) in around]]
        axes.errorbar(
            [*one.points], [*one.points.values()], yerr=errors, color=f"C{i}", marker="o", markersize=4, capsize=3,
            elinewidth=1,
        )  # fmt: skip
    _scale(axes, [0.0, *(high for one in series for _, high in one.intervals)], percent=True)


def draw_gain(axes: Axes, before: float, after: float, parts: Sequence[tuple[str, float]]) -> None:
    """Draw a waterfall: accuracy before, the parts of the gain one on top of the other, accuracy after."""
    levels, reached = [(0.0, before, MUTED, f"{before:.1f}")], before
    for _, part in parts:
        levels.append((reached, part, GOOD if part >= 0 else BAD, signed(part, 1)))
        reached += part
    levels.append((0.0, after, "C0", f"{after:.1f}"))
    for x, (bottom, height, colour, text) in enumerate(levels):
        axes.bar(x, height, 0.62, bottom=bottom, color=colour)
        place: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
        axes.annotate(text, (x, max(bottom, bottom + height)), color=INK, fontsize=9, **place)
    top = max(max(bottom, bottom + height) for bottom, height, _, _ in levels)
    axes.set_ylim(0, max(top * 1.16, 1))
    axes.set_xticks(range(len(levels)), ["before", *(name for name, _ in parts), "after"])
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_visible(False)
    axes.grid(False)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return a curve's running mean under a Gaussian window, centred so that it lags behind nothing; NaNs are left out.

    The window's standard deviation is a 40th of the curve: a short run is barely smoothed.
    """
    width = len(values) / 40
    reach = math.ceil(3 * width)
    bell = [math.exp(-0.5 * (i / width) ** 2) if width else 1.0 for i in range(reach + 1)]
    result = []
    for i in range(len(values)):
        near = [(bell[abs(i - j)], values[j]) for j in range(max(i - reach, 0), min(i + reach + 1, len(values)))]
        weight = sum(w for w, v in near if math.isfinite(v))
        result.append(sum(w * v for w, v in near if math.isfinite(v)) / weight if weight else math.nan)
    return result


def thinned(points: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """Return steps and values of a curve, at most MOST_POINTS, each the mean of its neighbours' steps and values."""
    steps, values = [float(step) for step in points], [*points.values()]
    if len(values) <= MOST_POINTS:
        return steps, values
    spans = list(pairwise(round(i * len(values) / MOST_POINTS) for i in range(MOST_POINTS + 1)))
    return [_mean(steps[a:b]) for a, b in spans], [_mean(values[a:b]) for a, b in spans]


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _scale(axes: Axes, values: Sequence[float], percent: bool = False, log: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.02)
    if log and any(v > 0 for v in values):
        axes.set_yscale("log")
        return
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{number(100 * v, 4)} %" if percent else number(v)))
    finite = [v for v in values if math.isfinite(v)]
    if min(finite, default=0.0) >= 0:  # a curve of counts or shares is read against zero
        axes.set_ylim(0, None if max(finite, default=0.0) > 0 else 1)


def svg(name: str, draw: Callable[[Axes], None], height: float = 2.3, left: float = 0.145) -> str:
    """Return what is drawn on the axes of a chart as SVG.

    name: keeps the ids inside this SVG apart from those of other charts on the page. height: in inches, of 4.6 width.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A Figure of its own, never pyplot: no window, no global state. The salt makes ids the same on every run.
    with matplotlib.rc_context({"svg.hashsalt": name}, fname=STYLE):
        figure = Figure(figsize=(4.6, height))
        draw(FigureCanvasSVG(figure).figure.add_subplot())
        # Fixed margins, so that the axes of all charts stand at the same place; also twice as fast as fitting them.
        figure.subplots_adjust(left=left, right=0.985, bottom=0.12, top=0.97)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _embeddable(buffer.getvalue())


def _embeddable(text: str) -> str:
    """Return matplotlib's SVG ready for an HTML page: no prolog, no style of its own, no repeated ids, CSS colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", text)
    text = re.sub(
        r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', text
    )
    text = re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", text)
    # A hundredth of a point is finer than any screen; shorter numbers make a third of the page's charts go away.
    text = re.sub(r'(?<=[\s"])(-?\d+\.\d\d)\d+', r"\1", text)
    text = re.sub(r' transform="rotate\(-0[^"]*"|font-family: [^;"]*; ', "", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()
