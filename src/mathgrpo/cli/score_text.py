"""What mathgrpo score prints: one completion part by part, many as a table, each as JSON."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mathgrpo.answers import gold_problem
from mathgrpo.cli.options import readable
from mathgrpo.errors import UserError
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


OWN_KEYS = frozenset(("completion", "completions", "question", "answer", "gold", "problem_id"))
"""Keys of a line that are no further columns of its problem."""


def read_completions(file: Path, problem: Problem | None) -> list[tuple[Problem, str]]:
    """Return each completion of a file with its problem; `problem`, where given, is that of every line.

    A line is a JSON object with `completion`, text, or `completions`, a list of texts or of objects with `text`; and
    with the gold answer as `gold` or `answer`, as rollouts.jsonl and traces have it. A line of text alone, in quotes,
    is a completion too.

    Raises:
        UserError: the file cannot be read, holds nothing, or a line has no completion or no gold answer.
    """
    found = []
    for number, line in _lines(file):
        place = f"FILE={file}: line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f'{place} is not JSON ({error}); write one {{"completion": …, "answer": …}} a line'
            ) from None
        row = {"completion": row} if isinstance(row, str) else row
        texts = _texts(row) if isinstance(row, dict) else []
        if not texts:
            raise UserError(f'{place} has no completion; write {{"completion": …, "answer": …}}')
        own = problem if problem is not None else _problem_of(row, place)
        if own is None:
            raise UserError(f'{place} has no gold answer; write it as "answer", or give one for all with --answer')
        found += [(own, text) for text in texts]
    if not found:
        raise UserError(f"FILE={file}: holds no line; give at least one completion")
    return found


def require_gold(source: str, gold: str) -> None:
    """Return when a gold answer can be graded.

    Raises:
        UserError: it cannot; `source` says where it was given.
    """
    unreadable = gold_problem(gold)
    if unreadable is not None:
        raise UserError(f'{source}="{gold[:60]}": cannot be graded: it {unreadable}')


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not empty."""
    with readable(f"FILE={file}"), file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                yield number, line


def _texts(row: dict[str, Any]) -> list[str]:
    given = row.get("completions", [row.get("completion")])
    texts = [each.get("text") if isinstance(each, dict) else each for each in given] if isinstance(given, list) else []
    return [text for text in texts if isinstance(text, str)] if all(isinstance(text, str) for text in texts) else []


def _problem_of(row: dict[str, Any], place: str) -> Problem | None:
    """Return the problem that a line names; None without a gold answer.

    What `mathgrpo solve` writes of a question of the user's has an answer too, the model's: no verdict stands with it.
    """
    models_own = "reasoning" in row and "verdict" not in row
    gold = row.get("gold", None if models_own else row.get("answer"))
    if not isinstance(gold, str | int | float) or isinstance(gold, bool):
        return None
    require_gold(f"{place}: gold", str(gold))
    columns = {key: value for key, value in row.items() if key not in OWN_KEYS}
    question = row.get("question")
    return Problem(question=question if isinstance(question, str) else "", answer=str(gold), columns=columns)
