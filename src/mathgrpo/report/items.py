"""Problems and groups of completions as HTML, as many as the page has room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mathgrpo.evaluation.compare import paired_records
from mathgrpo.evaluation.one_scale import on_one_scale
from mathgrpo.evaluation.run_verdict import SUFFIXES
from mathgrpo.report.read_run import RunData, spread_groups

OUTCOMES = {"fixed": "fixed", "broken": "broken", "both-right": "both right", "both-wrong": "both wrong"}
"""Outcome of a problem -> how the page says it."""

_OUTCOME_OF = dict(zip(((False, True), (True, False), (True, True), (False, False)), OUTCOMES, strict=True))
"""Whether it was right before and after -> outcome."""
_FIRST = ("broken", "fixed", "both-wrong", "both-right")


@dataclass(frozen=True, slots=True)
class Shown:
    """Rendered items, how many there are in all, and how many carry each value of a filter: of the shown, of all."""

    html: list[str]
    total: int
    counts: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)


def shown_problems(run: RunData, template: Any, room: int) -> Shown:
    """Return one row a problem evaluated before and after, broken and fixed ones first, as many as fit `room` bytes."""
    rows = [row for problem_set in SUFFIXES for row in _problem_rows(run, problem_set)]
    rows.sort(key=lambda row: _FIRST.index(row["outcome"]))
    html: list[str] = []
    for row in rows:
        text = template.render(row, outcomes=OUTCOMES)
        room -= len(text.encode())
        if room < 0:
            break
        html.append(text)
    return Shown(html, len(rows), _filter_counts(rows[: len(html)]), _filter_counts(rows))


def _filter_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many problems have each outcome, and how many are of each set."""
    return {name: sum(name in (row["outcome"], row["problem_set"]) for row in rows) for name in (*OUTCOMES, *SUFFIXES)}


def _problem_rows(run: RunData, problem_set: str) -> Iterator[dict[str, Any]]:
    before, after = (run.evaluations.get(f"{when}{SUFFIXES[problem_set]}") for when in ("before", "after"))
    for old, new in paired_records(*on_one_scale(before, after)) if before and after else ():
        outcome = _OUTCOME_OF[old.greedy.correct, new.greedy.correct]
        yield {"problem_set": problem_set, "outcome": outcome, "sides": {"before": old, "after": new}}


def shown_groups(run: RunData, html: list[str], room: int) -> Shown:
    """Return groups of the whole run, first step and last among them, as many as fit into `room` bytes.

    counts holds the groups shown of each step, steps ascending.
    """
    sizes = [len(text.encode()) for text in html]
    steps, most = [group.step for group in run.groups], len(html)
    kept = spread_groups(steps, most)
    while kept and sum(sizes[i] for i in kept) > room:
        most = min(most - 1, int(most * 0.9))
        kept = spread_groups(steps, most) if most else []
    return Shown([html[i] for i in kept], run.groups_logged, Counter(str(steps[i]) for i in kept))
