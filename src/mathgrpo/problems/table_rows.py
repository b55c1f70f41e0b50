"""From one row of a table to one problem, with the row named in every complaint."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.problems import worked as gsm8k
from mathgrpo.types import Problem

if TYPE_CHECKING:
    from mathgrpo.config.recipe import ProblemsSection

Column = Literal["question", "answer", "solution"]
COLUMNS: tuple[Column, ...] = get_args(Column)
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which a JSON escape may hold and no file can."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as its source has it.

    Attributes:
        place: where it is ("line 3" of a JSONL file, "row 3" of a table), counted from 1.
        values: column name -> value.
    """

    place: str
    values: Mapping[str, Any]


def shown(value: object, limit: int = 80) -> str:
    """Return a value as one printable line in double quotes, cut to `limit` characters.

    Example:
        >>> shown("two\\nlines"), shown("a" * 100, limit=3)
        ('"two\\\\nlines"', '"aaa…"')
    """
    text = str(value)
    clipped = text if len(text) <= limit else text[:limit] + "…"
    return json.dumps(clipped, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Return names as a list for a message, the first `limit` of them."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def problem_from_row(row: Row, section: ProblemsSection) -> Problem:
    """Return the problem a row holds.

    A GSM8K-shaped answer is cut into gold and solution whatever the source; columns not asked for are kept in
    Problem.columns, except ones called question or answer, which would hide the problem's own from reward functions.

    Raises:
        UserError: a column is missing, question or answer is empty, or a cell is no text.
    """
    question, answer = _text(row, "question", section), _text(row, "answer", section)
    gold, solution = gsm8k.split_answer(answer) or (answer, None)
    if section.column("solution"):
        written = _text(row, "solution", section)
        cut = gsm8k.split_answer(written)
        solution = cut[1] if cut else gsm8k.clean_solution(written) or None
    used = {*map(section.column, COLUMNS), "question", "answer"}
    columns = {name: value for name, value in row.values.items() if name not in used}
    return Problem(question=question, answer=gold, solution=solution, columns=columns)


def _text(row: Row, field: Column, section: ProblemsSection) -> str:
    """Return a cell as stripped text; a solution may be empty."""
    column = section.column(field)
    if column not in row.values:
        names = [str(name) for name in row.values]
        raise UserError(
            f"problems.columns.{field}={shown(column)}: {row.place} of {shown(section.source)} has no such column; "
            f"columns there: {listed(names) or 'none'}{did_you_mean(column, names)}"
        )
    value = row.values[column]
    is_missing = value is None or (isinstance(value, float) and math.isnan(value))  # NaN: what tables write for null
    text = "" if is_missing else str(value).strip()
    what, remedy = "", "write text or a number there"
    if isinstance(value, bool | list | tuple | dict | bytes):
        what = f"a {type(value).__name__} in"
    elif _SURROGATE.search(text):
        what = "a broken Unicode character (half of a surrogate pair) in"
    elif not text and field != "solution":
        what, remedy = "an empty", "fill it in, remove the row"
    if what:
        raise UserError(
            f"problems.source={shown(section.source)}: {row.place} has {what} {shown(column)}; {remedy}, "
            f"or set problems.columns.{field}"
        )
    return text
