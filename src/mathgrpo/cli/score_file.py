"""Completions to be scored, from a .jsonl file: a run's rollouts, traces, or lines of the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mathgrpo.answers import gold_problem
from mathgrpo.cli.options import readable
from mathgrpo.errors import UserError
from mathgrpo.types import Problem

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
