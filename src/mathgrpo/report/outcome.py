"""What came of a run: its verdicts and its numbers before and after, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mathgrpo.evaluation.compare import signed_points
from mathgrpo.evaluation.gain import Rates, rates
from mathgrpo.evaluation.run_verdict import SUFFIXES, SetVerdict, verdicts_of
from mathgrpo.report.charts import gain_chart
from mathgrpo.report.read_run import RunData
from mathgrpo.report.safe_text import number, percent, unbroken
from mathgrpo.text import signed

SET_TITLES = {"heldout": "Held-out problems", "templates": "Held-out templates"}


def run_verdicts(run: RunData) -> list[SetVerdict]:
    """Return the verdict on each problem set evaluated before and after, greedy and, with samples, sampled."""
    return list(verdicts_of(run.evaluations).values())


def verdict_view(verdict: SetVerdict, run: RunData) -> dict[str, Any]:
    """Return what the page shows of a verdict: its line, its parts as numbers and picture, the rates behind."""
    comparison, parts = verdict.comparison, verdict.parts
    suffix = SUFFIXES[verdict.problem_set]
    chains = [rates(run.evaluations[f"{when}{suffix}"].records, comparison.metric) for when in ("before", "after")]
    named = [("format", parts.format), ("working", parts.working), ("arithmetic", parts.arithmetic)]
    return {
        "title": SET_TITLES[verdict.problem_set] + (", sampled" if comparison.metric == "sampled" else ""),
        "line": unbroken(verdict.line),
        "comparison": comparison,
        "tone": "none" if not comparison.significant else "good" if comparison.difference > 0 else "bad",
        "gain": signed_points(comparison.difference),
        "parts": [(name, signed(part, 1)) for name, part in named],
        "chart": gain_chart(
            f"gain-{verdict.problem_set}-{comparison.metric}", 100 * comparison.before, 100 * comparison.after, named
        ),
        "chain": _chain_rows(*chains),
    }


def _chain_rows(before: Rates, after: Rates) -> list[tuple[str, str, str]]:
    labels = {
        "readable": "answer readable in the format",
        "worked": "of these, worked out",
        "right_worked": "correct when worked out",
        "right_quick": "correct when answered at once",
    }
    return [(label, _share(getattr(before, name)), _share(getattr(after, name))) for name, label in labels.items()]


def _share(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else percent(value)


def before_after_tables(run: RunData) -> list[dict[str, Any]]:
    """Return a before/after table of every number, one for each problem set that has been evaluated."""
    tables = []
    for problem_set, suffix in SUFFIXES.items():
        sides = [
            run.evaluations[name].summary() if (name := f"{when}{suffix}") in run.evaluations else None
            for when in ("before", "after")
        ]
        if any(sides):
            tables.append({"title": SET_TITLES[problem_set], "rows": _table_rows(sides[0] or {}, sides[1] or {})})
    return tables


ROWS = {
    "accuracy": "accuracy, in the format",
    "accuracy_flexible": "accuracy, answer anywhere",
    "format_rate": "format kept",
    "format_rate_soft": "format kept, loosely",
    "worked_rate": "worked out",
    "clipped_ratio": "cut off",
    "mean_length": "mean length, tokens",
}
RATES_OF_SAMPLES = ("sampled/pass@", "sampled/maj@")


def _table_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, str]]:
    sampled = dict.fromkeys(n.removeprefix("sampled/") for n in (*before, *after) if n.startswith(RATES_OF_SAMPLES))
    names = [("", "greedy", name, label) for name, label in ROWS.items()]
    names += [("sampled/", "sampled", name, label) for name, label in (ROWS | {n: n for n in sampled}).items()]
    return [
        {"kind": kind, "label": label} | _cells(before.get(prefix + name), after.get(prefix + name), name)
        for prefix, kind, name, label in names
        if before.get(prefix + name) is not None or after.get(prefix + name) is not None
    ]


def _cells(old: float | None, new: float | None, name: str) -> dict[str, str]:
    in_tokens = name == "mean_length"
    show, difference = (number, partial(signed, decimals=1)) if in_tokens else (percent, signed_points)
    shown = ["\N{EN DASH}" if value is None else show(value) for value in (old, new)]
    change = "" if old is None or new is None else difference(new - old)
    return {"before": shown[0], "after": shown[1], "change": change}
