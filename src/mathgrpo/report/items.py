"""Problems and groups of completions as HTML, as many as the page has room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mathgrpo.evaluation import ProblemRecord
from mathgrpo.evaluation.compare import paired_records
from mathgrpo.evaluation.run_verdict import SUFFIXES
from mathgrpo.report.outcome import SET_TITLES
from mathgrpo.report.read_run import LoggedGroup, RunData, spread_groups

OUTCOMES = {"fixed": "fixed", "broken": "broken", "both-right": "both right", "both-wrong": "both wrong"}
"""Outcome of a problem -> how the page says it."""

_OUTCOME_OF = dict(zip(((False, True), (True, False), (True, True), (False, False)), OUTCOMES, strict=True))
"""Whether it was right before and after -> outcome."""
_FIRST_KEPT = ("broken", "fixed", "both-wrong", "both-right")


@dataclass(frozen=True, slots=True)
class Shown:
    """Rendered items, how many there are in all, and how many carry each value of a filter: of the shown, of all."""

    html: list[str]
    total: int
    counts: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)


def shown_problems(run: RunData, template: Any, room: int) -> Shown:
    """Return one row a problem evaluated before and after, in `room` bytes; broken and fixed ones stay longest."""
    rows = [row for problem_set in SUFFIXES for row in _problem_rows(run, problem_set)]
    html = [template.render(row=row, outcomes=OUTCOMES, sets=SET_TITLES) for row in rows]
    kept: set[int] = set()
    for i in sorted(range(len(rows)), key=lambda i: _FIRST_KEPT.index(rows[i]["outcome"])):
        room -= len(html[i].encode())
        if room < 0:
            break
        kept.add(i)
    shown = [rows[i] for i in sorted(kept)]
    return Shown([html[i] for i in sorted(kept)], len(rows), _filter_counts(shown), _filter_counts(rows))


def _filter_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many problems have each outcome, and how many are of each set."""
    return {name: sum(name in (row["outcome"], row["set"]) for row in rows) for name in (*OUTCOMES, *SUFFIXES)}


def _problem_rows(run: RunData, problem_set: str) -> Iterator[dict[str, Any]]:
    before, after = (run.evaluations.get(f"{when}{SUFFIXES[problem_set]}") for when in ("before", "after"))
    for old, new in paired_records(before, after) if before and after else ():
        yield {
            "set": problem_set, "outcome": _OUTCOME_OF[old.greedy.correct, new.greedy.correct],
            "question": old.question, "gold": old.gold, "template": old.template,
            "sides": (("before", old.greedy, _samples(old)), ("after", new.greedy, _samples(new))),
        }  # fmt: skip


def _samples(record: ProblemRecord) -> str:
    return (
        f"{sum(c.correct for c in record.samples)} of {len(record.samples)} samples correct" if record.samples else ""
    )


def group_html(run: RunData, template: Any) -> list[str]:
    """Return every group of the run as HTML."""
    return [template.render(group=group, view=_group_view(group)) for group in run.groups]


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
    counts: dict[str, int] = {}
    for i in kept:
        counts[str(steps[i])] = counts.get(str(steps[i]), 0) + 1
    return Shown([html[i] for i in kept], run.groups_logged, counts)


def _group_view(group: LoggedGroup) -> dict[str, Any]:
    rewards = [completion.reward for completion in group.completions if completion.reward is not None]
    names = list(dict.fromkeys(name for completion in group.completions for name in completion.reward_parts))
    return {
        "mean": sum(rewards) / max(len(rewards), 1),
        "low": min(rewards, default=0.0),
        "high": max(rewards, default=0.0),
        "correct": sum(completion.verdict == "correct" for completion in group.completions),
        "parts": names,
    }
