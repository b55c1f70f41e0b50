"""What mathgrpo score prints: one completion part by part, many as a table, each as JSON."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mathgrpo.rewards.explained_score import Explanation, Paid
from mathgrpo.text import escaped, quoted
from mathgrpo.types import Problem

MIN_COLUMNS, MAX_COLUMNS = 60, 120
MAX_NAME = 26
"""Columns that a reward's name has; a longer one, such as a file's, has a line of its own."""
MIN_WHY = 30
"""Columns beside the numbers from which on a reason stands there, else below."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A completion with what the rewards say of it; tokens: its length where a reward needed it."""

    problem: Problem
    text: str
    explanation: Explanation
    tokens: int | None


def columns() -> int:
    """Return how wide a line may be: the terminal's width, 80 where there is none."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, MIN_COLUMNS), MAX_COLUMNS)


def lines(scored: Scored) -> list[str]:
    """Return one completion's score part by part, with the reasons."""
    explanation, width = scored.explanation, columns()
    graded = explanation.graded
    shown = "none in the format" if graded.answer is None else quoted(graded.answer)
    facts = {
        "question": _one_line(scored.problem.question),
        "gold": _one_line(scored.problem.answer),
        "answer": f"{shown}: {graded.verdict}",
        "tokens": "" if scored.tokens is None else f"{scored.tokens}, the end token included",
        "note": "" if scored.text.strip() else "the completion is empty",
    }
    found = [line for name, fact in facts.items() if fact for line in _wrapped(f"{name:<10}", fact, width)]
    longest = min(max(len("total"), *(len(part.name) for part in explanation.parts)), MAX_NAME)
    found += ["", f"{'reward':<{longest}}     value   weight     pays  why"]
    found += [line for part in explanation.parts for line in _part_lines(part, longest, width)]
    total = "none: no reward applies" if math.isnan(explanation.total) else f"{explanation.total:7.3f}"
    return [*found, f"{'total':<{longest}}   {'':19}{total}"]


def overview_lines(scored: Sequence[Scored]) -> list[str]:
    """Return many completions in a table, one a line, and each reward's mean."""
    width = columns()
    names = [part.name for part in scored[0].explanation.parts]
    found = ["    #    total  verdict     answer"]
    for number, one in enumerate(scored, start=1):
        graded, total = one.explanation.graded, one.explanation.total
        answer = quoted(graded.answer) if graded.answer is not None else "none in the format"
        paid = "   none" if math.isnan(total) else f"{total:7.3f}"
        found.append(_cut(f"{number:>5}  {paid}  {graded.verdict:<10}  {answer}", width))
    longest = min(max(map(len, names)), MAX_NAME)
    found += ["", f"{'reward':<{longest}}     mean  applies to"]
    for place, name in enumerate(names):
        values = [one.explanation.parts[place].value for one in scored]
        applies = [value for value in values if value is not None]
        mean = f"{fmean(applies):7.3f}" if applies else "      –"
        found += _row(escaped(name), longest, f"{mean}  {len(applies)} of {len(values)}")
    totals = [one.explanation.total for one in scored if not math.isnan(one.explanation.total)]
    mean = f"{fmean(totals):7.3f}" if totals else "      –"
    return [*found, f"{'total':<{longest}}  {mean}  {len(totals)} of {len(scored)}"]


def as_json(scored: Scored) -> str:
    """Return one completion's score as a JSON object on one line."""
    graded, explanation = scored.explanation.graded, scored.explanation
    rewards = [
        {"name": part.name, "value": part.value, "weight": part.weight, "pays": part.amount,
         "low": _finite(part.low), "high": _finite(part.high), "why": part.why} for part in explanation.parts
    ]  # fmt: skip
    record: dict[str, Any] = {
        "question": scored.problem.question, "gold": scored.problem.answer, "answer": graded.answer,
        "verdict": graded.verdict, "flexible_verdict": graded.flexible_verdict,
        "format_strict": graded.format_strict, "format_soft": graded.format_soft, "tokens": scored.tokens,
        "total": _finite(explanation.total), "rewards": rewards,
    }  # fmt: skip
    return json.dumps(record, ensure_ascii=False)


def _part_lines(part: Paid, longest: int, width: int) -> list[str]:
    value = "      –" if part.value is None else f"{part.value:7.3f}"
    numbers = f"{value} × {part.weight:6g} = {part.amount:7.3f}  "
    *above, beginning = _row(escaped(part.name), longest, f" {numbers}")
    if width - len(beginning) >= MIN_WHY:
        return [*above, *_wrapped(beginning, escaped(part.why), width)]
    return [*above, beginning.rstrip(), *_wrapped("      ", escaped(part.why), width)]


def _row(name: str, longest: int, rest: str) -> list[str]:
    """Return a name and what stands beside it; a long name on a line of its own."""
    if len(name) <= longest:
        return [f"{name:<{longest}}  {rest}"]
    return [name, f"{'':<{longest}}  {rest}"]


def _wrapped(beginning: str, text: str, width: int) -> list[str]:
    """Return a text in lines that keep to the width, all but the first indented below its beginning."""
    wrapped = textwrap.wrap(
        text, width, initial_indent=beginning, subsequent_indent=" " * len(beginning), break_on_hyphens=False
    )
    return wrapped or [beginning.rstrip()]


def _one_line(text: str) -> str:
    return escaped(" ".join(text.split()))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
