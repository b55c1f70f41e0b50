from __future__ import annotations

import math
import re

import pytest

from mathgrpo.report.charts import (
    MOST_POINTS,
    Series,
    draw_areas,
    draw_gain,
    draw_intervals,
    draw_lines,
    smoothed,
    svg,
    thinned,
)

STEPS = list(range(1, 61))
RISING = [step / 60 for step in STEPS]


def points(values: list[float]) -> dict[int, float]:
    return dict(zip(STEPS, values, strict=True))


def line_chart(name: str, series: list[Series], **options: bool) -> str:
    return svg(name, lambda axes: draw_lines(axes, series, **options))


def test_a_chart_is_small_fixed_and_takes_the_pages_colours() -> None:
    rising, falling = points(RISING), points(RISING[::-1])
    series = [Series("one", rising, band=rising), Series("two", falling)]
    chart = line_chart("a", series, percent=True)
    assert chart == line_chart("a", series, percent=True)
    assert chart.startswith("<svg viewBox=") and len(chart) < 20_000
    assert "var(--c1)" in chart and "var(--c2)" in chart and "var(--grid)" in chart
    # Nothing of matplotlib's own colours, style sheet or addresses is left.
    assert not re.search(r"#0[0-9a-f]{5}\b", chart) and "<style" not in chart and "http" not in chart
    assert ">60 %<" in chart


def test_charts_on_one_page_share_no_ids() -> None:
    ids = [set(re.findall(r'id="([^"]+)"', line_chart(name, [Series("", points(RISING))]))) for name in ("a", "b")]
    assert ids[0] and not ids[0] & ids[1]


def test_curves_with_holes_and_single_points_are_drawn() -> None:
    holes = [math.nan if step % 7 else step for step in STEPS]
    for values in (holes, [math.nan] * 60, [0.0] * 60, [-1.0] * 60, [math.inf, *RISING[1:]]):
        assert line_chart("a", [Series("", points(values))]).endswith("</svg>")
        assert line_chart("a", [Series("", points(values))], log=True).endswith("</svg>")
    assert line_chart("a", [Series("", {3: 0.5})]).endswith("</svg>")
    two = [Series("", points(RISING)), Series("", points(RISING))]
    assert svg("s", lambda axes: draw_areas(axes, two)).count("var(--c") >= 2
    bars = [Series("", {0: 0.4, 60: 0.6}, intervals=[(0.3, 0.5), (0.5, 0.7)])]
    assert svg("i", lambda axes: draw_intervals(axes, bars)).endswith("</svg>")


def test_the_waterfall_names_every_part() -> None:
    parts = [("format", 3.1), ("working", 21.0), ("arithmetic", -1.5)]
    chart = svg("g", lambda axes: draw_gain(axes, 41.2, 63.8, parts))
    for text in ("41.2", "+3.1", "+21.0", "\N{MINUS SIGN}1.5", "63.8", "arithmetic"):
        assert text in chart
    assert "var(--good)" in chart and "var(--bad)" in chart


def test_smoothing_keeps_straight_lines_and_skips_holes() -> None:
    middle = slice(10, 50)
    assert smoothed(RISING)[middle] == pytest.approx(RISING[middle])
    assert smoothed([1.0] * 100) == pytest.approx([1.0] * 100)
    assert smoothed([]) == []


def test_long_curves_are_thinned_to_means() -> None:
    steps, values = thinned({i: float(i) for i in range(4 * MOST_POINTS)})
    assert len(steps) == MOST_POINTS and steps[0] == 1.5 and values[-1] == 4 * MOST_POINTS - 2.5
    assert len(line_chart("a", [Series("", {i: math.sin(i) for i in range(20_000)})])) < 30_000
