"""From one row of a table to one problem, with the row named in every complaint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mathgrpo.errors import UserError, named
from mathgrpo.problems.cells import Missing, answer_text, cell, question_text
from mathgrpo.problems.columns import Table, missing
from mathgrpo.problems.completed_question import completed
from mathgrpo.problems.known_columns import COLUMNS, GOLDS, WORKED, Column, plain
from mathgrpo.problems.marked_result import MARKS, is_prose, marked_result, result_of
from mathgrpo.problems.table_rows import Row, shown
from mathgrpo.problems.worked import clean_solution
from mathgrpo.types import Problem

if TYPE_CHECKING:
    from mathgrpo.config.recipe import ProblemsSection

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which a JSON escape may hold and no file can."""
_NO_ANSWER = frozenset({"proof", "notfound", "not found", "n/a", "none", "null", "nan", "unknown"})
"""What public data sets write where a problem has no answer that could be graded."""

LEAVE_OUT = "leave the row out (mathgrpo check-data PATH --passing FILE writes the others)"


def problem_from_row(row: Row, section: ProblemsSection) -> Problem:
    """Return the problem a row holds.

    An answer that is a worked solution is cut into gold and solution where it marks its result. Columns not asked for
    are kept in Problem.columns, except ones called question or answer, which would hide the problem's own from reward
    functions; those that the recipe gives another name are there under both.

    Raises:
        UserError: a column is missing, question or answer is empty, or a cell is no text.
    """
    question, answer = _text(row, "question", section), _text(row, "answer", section)
    gold, solution = _marked(row, answer, "answer", section) or (answer, None)
    if is_prose(gold):
        raise _error(row, f"{len(gold.split())} words in", "answer", section, f"mark its result there ({MARKS})")
    if gold.lower() in _NO_ANSWER:
        raise _error(row, f"no answer ({shown(gold)}) in", "answer", section, LEAVE_OUT)
    if section.column("solution"):
        written = _text(row, "solution", section)
        cut = result_of(written)
        solution = cut[1] if cut else clean_solution(written) or None
    try:
        question, gold = completed(question, gold, row.values)
    except ValueError as error:
        raise _error(row, str(error), "answer", section, "write the option's letter") from error
    own = {name: _value(row, name, column, section) for name, column in section.columns.items() if name not in COLUMNS}
    used = {"question", "answer", *(section.column(field) for field in COLUMNS)} - {_asked_for(section)}
    columns = {name: value for name, value in row.values.items() if name not in used}
    return Problem(question=question, answer=gold, solution=solution, columns=columns | own)


def _asked_for(section: ProblemsSection) -> str:
    """Return the column the gold is from where rewards may ask for it by its own name: a solution, a target."""
    column = section.column("answer")
    return column if plain(column) in (*WORKED, *GOLDS[-1]) and column != section.column("solution") else ""


def _value(row: Row, name: str, column: str, section: ProblemsSection) -> object:
    """Return what a column holds that the recipe gives a reward's name."""
    try:
        return cell(row.values, column)
    except Missing:
        raise UserError(
            f"problems.columns.{name}={shown(column)}: {row.place} of {shown(section.source)} has no such column; "
            f"columns there: {', '.join(map(str, row.values))}"
        ) from None


def _marked(row: Row, text: str, field: Column, section: ProblemsSection) -> tuple[str, str | None] | None:
    try:
        return marked_result(text)
    except ValueError as error:
        raise _error(row, str(error), field, section, f"keep the right one, {LEAVE_OUT}") from error


def _text(row: Row, field: Column, section: ProblemsSection) -> str:
    """Return a cell as stripped text; a solution may be empty."""
    column = section.column(field)
    try:
        text = (question_text if field == "question" else answer_text)(row.values, column)
    except Missing:
        names = [str(name) for name in row.values]
        raise missing(field, column, names, Table(section.source, names, [row]), row.place) from None
    except ValueError as error:
        raise _error(row, str(error), field, section) from error
    if _SURROGATE.search(text):
        raise _error(row, "a broken Unicode character (half of a surrogate pair) in", field, section)
    if not text and field != "solution":
        raise _error(row, "an empty", field, section, f"fill it in, {LEAVE_OUT}")
    return text


def _error(row: Row, what: str, field: Column, section: ProblemsSection, remedy: str = "") -> UserError:
    return UserError(
        f"problems.source={shown(section.source)}: {row.place} has {what} {shown(section.column(field))}; "
        f"{remedy or 'write text or a number there'}, or set {named(f'problems.columns.{field}')}"
    )
