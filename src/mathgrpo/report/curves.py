"""A run's metrics as charts under their headings; which, in which order, says templates/curves.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mathgrpo.evaluation.records import wilson_interval
from mathgrpo.report.charts import NUM_COLOURS, Series, draw_areas, draw_intervals, draw_lines, svg
from mathgrpo.report.outcome import speed_summary
from mathgrpo.report.read_run import Metrics, RunData

CHART_BYTES = 400_000
"""All charts together; what a run with very many metrics has beyond it is named, not drawn."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart to draw, as an entry of curves.toml: metric name -> label, and how it is drawn."""

    title: str
    metrics: Mapping[str, str]
    note: str = ""
    percent: bool = False
    log: bool = False
    stacked: bool = False
    band: str = ""
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart, and its curves for the legend and for what is read aloud in its place."""

    title: str
    note: str
    svg: str
    series: Sequence[Series]
    percent: bool


@dataclass(slots=True)
class ChartSection:
    """Charts under one heading."""

    title: str
    charts: list[Chart] = field(default_factory=list)
    lead: str = ""


def chart_sections(run: RunData) -> tuple[list[ChartSection], list[str]]:
    """Return the drawn charts by section, and the names of metrics that were not drawn because the page is full."""
    metrics = dict(run.metrics)
    if other := _other_time(metrics):
        metrics["time/other"] = other
    wanted = tomllib.loads((Path(__file__).parent / "templates" / "curves.toml").read_text(encoding="utf-8"))
    sections, used = [], set(wanted["not_alone"])
    for entry in wanted["sections"]:
        title = entry["title"]
        drawn = [accuracy_chart(run)] if title == "Learning" else []
        for curve in (Curve(**each) for each in entry["curves"]):
            names = _expanded(curve, metrics)
            used.update(names)
            drawn.append(draw(curve, names, metrics))
        lead = speed_summary(run) if title == "Speed" else ""
        sections.append(ChartSection(title, [chart for chart in drawn if chart], lead))
    sections.append(further := ChartSection("Further metrics"))
    bytes_drawn, left_out = sum(len(chart.svg) for section in sections for chart in section.charts), []
    for name in sorted(set(metrics) - used):
        chart = draw(Curve(name, {}), {name: name}, metrics) if bytes_drawn < CHART_BYTES else None
        if chart is None:
            left_out.append(name)
            continue
        bytes_drawn += len(chart.svg)
        further.charts.append(chart)
    return [section for section in sections if section.charts], left_out


def draw(curve: Curve, names: Mapping[str, str], metrics: Metrics) -> Chart | None:
    """Return the chart of those of a curve's metrics that the run has; None if it has none of them."""
    chosen = [name for name in names if name in metrics][: 2 * NUM_COLOURS]
    band = metrics.get(curve.band, {})
    series = [Series(names[name], metrics[name], band, exact=curve.exact) for name in chosen]
    series = _same_steps(series) if curve.stacked and series else series
    if not series:
        return None
    how = draw_areas if curve.stacked else partial(draw_lines, percent=curve.percent, log=curve.log)
    picture = svg("chart-" + "-".join(chosen), lambda axes: how(axes, series))
    return Chart(curve.title, curve.note, picture, series, curve.percent)


def accuracy_chart(run: RunData) -> Chart | None:
    """Return held-out accuracy over the run's evaluations, with 95 % intervals; None with fewer than two of a set."""
    found = (accuracy_by_step(run, label, suffix) for label, suffix in (("problems", ""), ("templates", "-templates")))
    series = [one for one in found if len(one.points) > 1]
    if not series:
        return None
    picture = svg("chart-heldout", lambda axes: draw_intervals(axes, series))
    by = next(iter(run.evaluations.values())).by.strip(" ()")
    note = f"Greedy, {by or 'strict'}, never trained on; bars: 95 % intervals."
    return Chart("Held-out accuracy", note, picture, series, percent=True)


def accuracy_by_step(run: RunData, label: str, suffix: str = "") -> Series:
    """Return greedy accuracy with its 95 % interval in the evaluations of a problem set, by step."""
    graded = {
        step: [record.greedy.correct for record in evaluation.records]
        for name, evaluation in run.evaluations.items()
        if (step := _step(name, suffix, run.last_step)) is not None
    }
    by_step = {step: (sum(graded[step]), len(graded[step])) for step in sorted(graded)}
    points = {step: right / max(count, 1) for step, (right, count) in by_step.items()}
    return Series(label, points, intervals=[wilson_interval(*counts) for counts in by_step.values()])


def _step(name: str, suffix: str, last_step: int) -> int | None:
    """Return after how many steps an evaluation of this problem set was made; None if it is of another set."""
    when, steps = name.removesuffix(suffix), name.removesuffix(suffix).removeprefix("step-")
    if not name.endswith(suffix):
        return None
    if when in ("before", "after"):
        return 0 if when == "before" else last_step
    return int(steps) if when.startswith("step-") and steps.isascii() and steps.isdecimal() else None


def _expanded(curve: Curve, metrics: Metrics) -> dict[str, str]:
    """Return a curve's metric names with their labels, every "/*" replaced by the metrics the run has below it."""
    names: dict[str, str] = {}
    for name, label in curve.metrics.items():
        if name.endswith("/*"):
            stem = name.removesuffix("*")
            names |= {found: found.removeprefix(stem) for found in metrics if found.startswith(stem)}
        else:
            names[name] = label
    return names


def _same_steps(series: Sequence[Series]) -> list[Series]:
    """Return the curves over the steps they all have: what is stacked must be measured together."""
    common = sorted(set.intersection(*(set(one.points) for one in series)))
    return [replace(one, points={step: one.points[step] for step in common}) for one in series if common]


def _other_time(metrics: Metrics) -> dict[int, float]:
    """Return what the parts leave of each step's time, where the run measured both."""
    parts = [metrics.get(name, {}) for name in ("time/rollout", "time/reward", "time/update")]
    totals = metrics.get("time/step", {})
    return {step: max(total - sum(part.get(step, 0.0) for part in parts), 0.0) for step, total in totals.items()}
