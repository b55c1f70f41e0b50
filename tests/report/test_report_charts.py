from __future__ import annotations

import math
import re

import pytest

from mathgrpo.report.charts import (
    MOST_POINTS,
    Series,
    gain_chart,
    interval_chart,
    line_chart,
    smoothed,
    stacked_chart,
    thinned,
)

STEPS = list(range(1, 61))
RISING = [step / 60 for step in STEPS]


def test_a_chart_is_small_fixed_and_takes_the_pages_colours() -> None:
    svg = line_chart("a", [Series("one", STEPS, RISING, band=RISING), Series("two", STEPS, RISING[::-1])], percent=True)
    assert svg == line_chart(
        "a", [Series("one", STEPS, RISING, band=RISING), Series("two", STEPS, RISING[::-1])], percent=True
    )
    assert svg.startswith("<svg viewBox=") and len(svg) < 20_000
    assert "var(--c1)" in svg and "var(--c2)" in svg and "var(--grid)" in svg
    # Nothing of matplotlib's own colours, style sheet or addresses is left.
    assert not re.search(r"#0[0-9a-f]{5}\b", svg) and "<style" not in svg and "http" not in svg
    assert ">60 %<" in svg


def test_charts_on_one_page_share_no_ids() -> None:
    ids = [set(re.findall(r'id="([^"]+)"', line_chart(name, [Series("", STEPS, RISING)]))) for name in ("a", "b")]
    assert ids[0] and not ids[0] & ids[1]


def test_curves_with_holes_and_single_points_are_drawn() -> None:
    holes = [math.nan if step % 7 else step for step in STEPS]
    for values in (holes, [math.nan] * 60, [0.0] * 60, [-1.0] * 60, [math.inf, *RISING[1:]]):
        assert line_chart("a", [Series("", STEPS, values)]).endswith("</svg>")
        assert line_chart("a", [Series("", STEPS, values)], log=True).endswith("</svg>")
    assert line_chart("a", [Series("", [3], [0.5])]).endswith("</svg>")
    assert stacked_chart("s", [Series("", STEPS, RISING), Series("", STEPS, RISING)]).count("var(--c") >= 2
    assert interval_chart("i", [Series("", [0, 60], [0.4, 0.6])], [[0.3, 0.5]], [[0.5, 0.7]]).endswith("</svg>")


def test_the_waterfall_names_every_part() -> None:
    svg = gain_chart("g", 41.2, 63.8, [("format", 3.1), ("working", 21.0), ("arithmetic", -1.5)])
    for text in ("41.2", "+3.1", "+21.0", "\N{MINUS SIGN}1.5", "63.8", "arithmetic"):
        assert text in svg
    assert "var(--good)" in svg and "var(--bad)" in svg


def test_smoothing_keeps_straight_lines_and_skips_holes() -> None:
    middle = slice(10, 50)
    assert smoothed(RISING)[middle] == pytest.approx(RISING[middle])
    assert smoothed([1.0] * 100) == pytest.approx([1.0] * 100)
    assert smoothed([]) == []


def test_long_curves_are_thinned_to_means() -> None:
    steps, values = thinned(range(4 * MOST_POINTS), [float(i) for i in range(4 * MOST_POINTS)])
    assert len(steps) == MOST_POINTS and steps[0] == 1.5 and values[-1] == 4 * MOST_POINTS - 2.5
    svg = line_chart("a", [Series("", range(20_000), [math.sin(i) for i in range(20_000)])])
    assert len(svg) < 30_000
