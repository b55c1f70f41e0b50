"""A run's metrics as charts under their headings; which, in which order, says templates/curves.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from mathgrpo.evaluation.records import wilson_interval
from mathgrpo.report.charts import NUM_COLOURS, Series, interval_chart, line_chart, stacked_chart
from mathgrpo.report.outcome import speed_summary
from mathgrpo.report.read_run import RunData
from mathgrpo.report.safe_text import number, percent

Metrics = Mapping[str, tuple[Sequence[int], Sequence[float]]]
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
    """A drawn chart with its legend (label, colour number, last value) and what to read aloud in its place."""

    title: str
    note: str
    svg: str
    legend: tuple[tuple[str, int, str], ...]
    spoken: str


@dataclass(slots=True)
class ChartSection:
    """Charts under one heading."""

    title: str
    charts: list[Chart] = field(default_factory=list)
    lead: str = ""


def chart_sections(run: RunData) -> tuple[list[ChartSection], list[str]]:
    """Return the drawn charts by section, and the names of metrics that were not drawn because the page is full."""
    metrics: dict[str, tuple[Sequence[int], Sequence[float]]] = dict(run.metrics)
    if other := _other_time(metrics):
        metrics["time/other"] = other
    wanted = tomllib.loads((Path(__file__).parent / "templates" / "curves.toml").read_text(encoding="utf-8"))
    sections, used = [], set(wanted["not_alone"])
    for entry in wanted["sections"]:
        title = entry["title"]
        sections.append(section := ChartSection(title, lead=speed_summary(run) if title == "Speed" else ""))
        if title == "Learning" and (accuracy := accuracy_chart(run)):
            section.charts.append(accuracy)
        curves = [Curve(**curve) for curve in entry["curves"]]
        named = [_expanded(curve, metrics) for curve in curves]
        used.update(chain(*named))
        drawn = (draw(curve, names, metrics) for curve, names in zip(curves, named, strict=True))
        section.charts += [chart for chart in drawn if chart]
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
    chosen = [(name, label) for name, label in names.items() if name in metrics][: 2 * NUM_COLOURS]
    if not chosen:
        return None
    band = metrics[curve.band][1] if curve.band in metrics else []
    series = [
        Series(label, *metrics[name], band=band if len(band) == len(metrics[name][1]) else None, exact=curve.exact)
        for name, label in chosen
    ]
    key = "chart-" + "-".join(name for name, _ in chosen)
    show = percent if curve.percent else number
    if curve.stacked:
        series = _same_steps(series)
    if not series:
        return None
    svg = stacked_chart(key, series) if curve.stacked else line_chart(key, series, percent=curve.percent, log=curve.log)
    return Chart(curve.title, curve.note, svg, *_legend(series, show))


def accuracy_chart(run: RunData) -> Chart | None:
    """Return held-out accuracy over the run's evaluations, with 95 % intervals; None with fewer than two of a set."""
    found = {label: accuracy_by_step(run, suffix) for label, suffix in (("problems", ""), ("templates", "-templates"))}
    columns = {label: tuple(zip(*rows, strict=True)) for label, rows in found.items() if len(rows) > 1}
    if not columns:
        return None
    series = [Series(label, steps, values) for label, (steps, values, _, _) in columns.items()]
    svg = interval_chart("chart-heldout", series, *zip(*(bounds[2:] for bounds in columns.values()), strict=True))
    note = "Greedy, strict, never trained on; bars: 95 % intervals."
    return Chart("Held-out accuracy", note, svg, *_legend(series, percent))


def accuracy_by_step(run: RunData, suffix: str = "") -> list[tuple[int, float, float, float]]:
    """Return (step, greedy accuracy, its 95 % interval's low and high) of a problem set's evaluations, by step."""
    found = []
    for name, evaluation in run.evaluations.items():
        step = _step(name, suffix, run.last_step)
        if step is not None:
            right, count = sum(record.greedy.correct for record in evaluation.records), len(evaluation.records)
            found.append((step, right / max(count, 1), *wilson_interval(right, count)))
    return sorted(found)


def _step(name: str, suffix: str, last_step: int) -> int | None:
    """Return after how many steps an evaluation of this problem set was made; None if it is of another set."""
    if not name.endswith(suffix):
        return None
    when = name.removesuffix(suffix)
    if when in ("before", "after"):
        return 0 if when == "before" else last_step
    steps = when.removeprefix("step-")
    return int(steps) if when.startswith("step-") and steps.isascii() and steps.isdecimal() else None


def _legend(series: Sequence[Series], show: Callable[[float], str]) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Return label, colour number and last value of each curve, and the sentence that stands for the picture."""
    legend = tuple((one.label, i % NUM_COLOURS + 1, show(one.values[-1])) for i, one in enumerate(series))
    return legend, "; ".join(
        f"{one.label}: {show(one.values[0])} at step {one.steps[0]}, {show(one.values[-1])} at step {one.steps[-1]}"
        for one in series
    )


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
    values = [dict(zip(one.steps, one.values, strict=True)) for one in series]
    common = sorted(set.intersection(*(set(found) for found in values)))
    curves = [Series(one.label, common, [at[s] for s in common]) for one, at in zip(series, values, strict=True)]
    return curves if common else []


def _other_time(metrics: Metrics) -> tuple[list[int], list[float]] | None:
    """Return what the parts leave of each step's time, where the run measured both."""
    if "time/step" not in metrics:
        return None
    names = [name for name in ("time/rollout", "time/reward", "time/update") if name in metrics]
    parts = [dict(zip(*metrics[name], strict=True)) for name in names]
    steps, totals = metrics["time/step"]
    known = [sum(part.get(step, 0.0) for part in parts) for step in steps]
    return list(steps), [max(total - part, 0.0) for total, part in zip(totals, known, strict=True)]
