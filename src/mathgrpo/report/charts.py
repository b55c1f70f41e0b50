"""Charts as inline SVG, drawn by matplotlib, coloured by the page's style sheet.

Why matplotlib: its SVG needs no script (the page's content policy allows none but the filters'), is about 8 kB a chart
where a script library adds 0.8 to 5 MB to every page, and prints. Every colour drawn is a stand-in that becomes a CSS
variable, so one drawing serves light and dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathgrpo.text import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, HEIGHT_IN = 4.6, 2.3
MOST_POINTS = 300
"""Points drawn of a curve; a longer one is averaged over neighbours."""

VARIABLES = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--grid",
    "#040404": "--good",
    "#050505": "--bad",
    **{f"#0000{i:02d}": f"--c{i}" for i in range(1, 9)},
}
"""Stand-in colour -> the CSS variable that takes its place."""

STAND_IN = {variable: colour for colour, variable in VARIABLES.items()}
NUM_COLOURS = 8
STYLE = Path(__file__).parent / "templates" / "charts.mplstyle"


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: steps, values and, where there is one, the half width of a band around it; exact: not smoothed."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    band: Sequence[float] | None = None
    exact: bool = False


def line_chart(name: str, series: Sequence[Series], *, percent: bool = False, log: bool = False) -> str:
    """Return an SVG of curves over steps: thin as measured, thick smoothed; colours --c1, --c2, ... in their order.

    name: keeps the ids inside this SVG apart from those of other charts on the page.
    """

    def draw(axes: Axes) -> None:
        for i, one in enumerate(series):
            colour = STAND_IN[f"--c{i % NUM_COLOURS + 1}"]
            steps, values = thinned(one.steps, one.values)
            smooth = values if one.exact else smoothed(values)
            if one.band is not None:
                edges = list(zip(smooth, smoothed(thinned(one.steps, one.band)[1]), strict=True))
                low, high = [s - half for s, half in edges], [s + half for s, half in edges]
                axes.fill_between(steps, low, high, color=colour, alpha=0.13, lw=0)
            axes.plot(steps, values, color=colour, alpha=0.32, lw=0.9)
            axes.plot(steps, smooth, color=colour, marker="o" if len(steps) == 1 else "")
        _scale(axes, [v for one in series for v in one.values], percent, log)

    return _svg(name, draw)


def stacked_chart(name: str, series: Sequence[Series]) -> str:
    """Return an SVG of areas stacked over steps, the first at the bottom."""

    def draw(axes: Axes) -> None:
        steps = thinned(series[0].steps, series[0].values)[0]
        layers = [thinned(one.steps, one.values)[1] for one in series]
        colours = [STAND_IN[f"--c{i % NUM_COLOURS + 1}"] for i in range(len(series))]
        axes.stackplot(steps, layers, colors=colours, alpha=0.8, linewidth=0)
        _scale(axes, [v for layer in layers for v in layer], False, False)

    return _svg(name, draw)


def interval_chart(
    name: str, series: Sequence[Series], lows: Sequence[Sequence[float]], highs: Sequence[Sequence[float]]
) -> str:
    """Return an SVG of shares over steps with their intervals as bars: one accuracy per evaluation."""

    def draw(axes: Axes) -> None:
        for i, (one, low, high) in enumerate(zip(series, lows, highs, strict=True)):
            errors = [
                [max(v - a, 0) for v, a in zip(one.values, low, strict=True)],
                [max(b - v, 0) for v, b in zip(one.values, high, strict=True)],
            ]
            colour = STAND_IN[f"--c{i % NUM_COLOURS + 1}"]
            axes.errorbar(
                one.steps, one.values, yerr=errors, color=colour, marker="o", markersize=4, capsize=3, elinewidth=1
            )
        _scale(axes, [0.0, *(v for high in highs for v in high)], True, False)

    return _svg(name, draw)


def gain_chart(name: str, before: float, after: float, parts: Sequence[tuple[str, float]]) -> str:
    """Return an SVG waterfall: accuracy before, the parts of the gain one on top of the other, accuracy after."""

    def draw(axes: Axes) -> None:
        levels, reached = [(0.0, before, STAND_IN["--muted"], f"{before:.1f}")], before
        for _, part in parts:
            levels.append((reached, part, STAND_IN["--good" if part >= 0 else "--bad"], signed(part, 1)))
            reached += part
        levels.append((0.0, after, STAND_IN["--c1"], f"{after:.1f}"))
        for x, (bottom, height, colour, text) in enumerate(levels):
            axes.bar(x, height, 0.62, bottom=bottom, color=colour)
            place: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
            axes.annotate(text, (x, max(bottom, bottom + height)), color=STAND_IN["--ink"], fontsize=9, **place)
        top = max(max(bottom, bottom + height) for bottom, height, _, _ in levels)
        axes.set_ylim(0, max(top * 1.16, 1))
        axes.set_xticks(range(len(levels)), ["before", *(name for name, _ in parts), "after"])
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_visible(False)
        axes.grid(False)

    return _svg(name, draw, height=1.9, left=0.015)


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


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return a curve of at most MOST_POINTS points, each the mean of its neighbours' steps and values."""
    if len(values) <= MOST_POINTS:
        return [float(s) for s in steps], list(values)
    edges = [round(i * len(values) / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    spans = list(pairwise(edges))
    return [_mean(steps[a:b]) for a, b in spans], [_mean(values[a:b]) for a, b in spans]


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _scale(axes: Axes, values: Sequence[float], percent: bool, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    from mathgrpo.report.safe_text import number

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.02)
    if log and any(v > 0 for v in values):
        axes.set_yscale("log")
        return
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g} %" if percent else number(v)))
    finite = [v for v in values if math.isfinite(v)]
    if min(finite, default=0.0) >= 0:  # a curve of counts or shares is read against zero
        axes.set_ylim(0, None if max(finite, default=0.0) > 0 else 1)


def _svg(name: str, draw: Any, height: float = HEIGHT_IN, left: float = 0.145) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A Figure of its own, never pyplot: no window, no global state. The salt makes ids the same on every run.
    with matplotlib.rc_context({"svg.hashsalt": name}, fname=STYLE):
        figure = Figure(figsize=(WIDTH_IN, height))
        axes = FigureCanvasSVG(figure).figure.add_subplot()
        draw(axes)
        # Fixed margins, so that the axes of all charts stand at the same place; also twice as fast as fitting them.
        figure.subplots_adjust(left=left, right=0.985, bottom=0.12, top=0.97)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _embeddable(buffer.getvalue())


def _embeddable(svg: str) -> str:
    """Return matplotlib's SVG ready for an HTML page: no prolog, no style of its own, no repeated ids, CSS colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
    svg = re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", svg)
    # A hundredth of a point is finer than any screen; shorter numbers make a third of the page's charts go away.
    svg = re.sub(r'(?<=[\s"])(-?\d+\.\d\d)\d+', r"\1", svg)
    svg = re.sub(r' transform="rotate\(-0[^"]*"|font-family: [^;"]*; ', "", svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
