"""What mathgrpo score prints: one completion part by part, many as a table, each as JSON."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from mathgrpo.answers import gold_problem
from mathgrpo.errors import UserError
from mathgrpo.files import readable
from mathgrpo.rewards.explained_score import Explanation
from mathgrpo.text import escaped, quoted, wrapped
from mathgrpo.types import Problem

MIN_COLUMNS, MAX_COLUMNS = 60, 120
MAX_NAME = 26
"""Columns that a reward's name has; a longer one, such as a file's, is broken."""


def columns() -> int:
    """Return how wide a line may be: the terminal's width, 80 where there is none."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, MIN_COLUMNS), MAX_COLUMNS)


def lines(scored: Explanation) -> list[str]:
    """Return one completion's score part by part, with the reasons."""
    graded = scored.graded
    shown = "none in the format" if graded.answer is None else quoted(graded.answer)
    facts = {
        "question": _one_line(scored.problem.question),
        "gold": _one_line(scored.problem.answer),
        "answer": f"{shown}: {graded.verdict}",
        "tokens": "" if scored.tokens is None else f"{scored.tokens}, the end token included",
        "note": "" if scored.text.strip() else "the completion is empty",
    }
    table = _table("reward", "value × weight = pays", "why")
    digits = max(len(f"{part.weight:g}") for part in scored.parts)
    for part in scored.parts:
        numbers = f"{_number(part.value)} × {part.weight:{digits}g} = {part.amount:6.3f}"
        table.add_row(escaped(part.name), numbers, escaped(part.why))
    table.add_row("total", _number(_finite(scored.total), "none applies"))
    found = [line for name, fact in facts.items() if fact for line in wrapped(f"{name:<10}", fact, columns())]
    return [*found, "", *drawn(table)]


def overview_lines(scored: Sequence[Explanation]) -> list[str]:
    """Return many completions in a table, one a line, and each reward's mean."""
    each, means = _table("#", "total", "verdict", "answer"), _table("reward", "mean", "applies to")
    for number, one in enumerate(scored, start=1):
        graded, total = one.graded, _finite(one.total)
        answer = quoted(graded.answer) if graded.answer is not None else "none in the format"
        each.add_row(str(number), _number(total, "none"), graded.verdict, answer)
    each.columns[-1].no_wrap, each.columns[-1].overflow = True, "ellipsis"
    values = {part.name: [one.parts[i].value for one in scored]
              for i, part in enumerate(scored[0].parts)}  # fmt: skip
    for name, paid in {**values, "total": [_finite(one.total) for one in scored]}.items():
        applies = [value for value in paid if value is not None]
        means.add_row(escaped(name), _number(fmean(applies) if applies else None), f"{len(applies)} of {len(paid)}")
    return [*drawn(each), "", *drawn(means)]


def as_json(scored: Explanation) -> str:
    """Return one completion's score as a JSON object on one line."""
    graded = scored.graded
    rewards = [
        {"name": part.name, "value": part.value, "weight": part.weight, "pays": part.amount,
         "low": _finite(part.low), "high": _finite(part.high), "why": part.why} for part in scored.parts
    ]  # fmt: skip
    record: dict[str, Any] = {
        "question": scored.problem.question, "gold": scored.problem.answer, "answer": graded.answer,
        "verdict": graded.verdict, "read": graded.verdict.read, "rule": graded.verdict.rule, "why": graded.verdict.why,
        "flexible_verdict": graded.flexible_verdict, "found": graded.found, "found_at": graded.found_at,
        "format_strict": graded.format_strict, "format_soft": graded.format_soft, "tokens": scored.tokens,
        "total": _finite(scored.total), "rewards": rewards,
    }  # fmt: skip
    return json.dumps(record, ensure_ascii=False)


def _table(*names: str) -> Table:
    """Return a table of a name, numbers and a text, without lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="none")
    table.add_column(names[0], max_width=MAX_NAME, overflow="fold")
    for name in names[1:-1]:
        table.add_column(name, no_wrap=True, justify="left" if name == "verdict" else "right")
    table.add_column(names[-1], overflow="fold")
    return table


def drawn(table: Table) -> list[str]:
    """Return a table as lines, as wide as the terminal."""
    console = Console(width=columns(), color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def _number(value: float | None, none: str = "–") -> str:
    return none if value is None else f"{value:.3f}"


def _one_line(text: str) -> str:
    return escaped(" ".join(text.split()))


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
    problem = gold_problem(gold)
    if problem is not None:
        raise UserError(f'{source}="{gold[:60]}": cannot be graded: it {problem}')


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
