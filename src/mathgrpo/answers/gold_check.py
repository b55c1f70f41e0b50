"""Every gold answer replayed through the grader and the format, before step 0.

A gold the grader cannot read would make every completion of its problem wrong, in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mathgrpo.answers import gold_problem, grade
from mathgrpo.answers.side_by_side import side_by_side
from mathgrpo.errors import UserError
from mathgrpo.formats import Format
from mathgrpo.problems.row_problem import problem_from_row
from mathgrpo.problems.table_rows import Row, shown
from mathgrpo.types import Problem

if TYPE_CHECKING:
    from mathgrpo.config.recipe import ProblemsSection

PROBE_REASONING = "Some reasoning 1 + 1 = 2"


@dataclass(frozen=True, slots=True)
class GoldFailure:
    """One row whose gold answer does not survive.

    Attributes:
        row: its position, counted from 1.
        question: its question, "" when the row has none.
        reason: what is wrong, in words.
    """

    row: int
    question: str
    reason: str

    def __str__(self) -> str:
        question = f" (question {shown(self.question, 60)})" if self.question else ""
        return f"row {self.row}: {self.reason}{question}"


def check_golds(problems: Sequence[Problem], fmt: Format) -> list[GoldFailure]:
    """Return the problems whose gold answer cannot be read, graded or written in the format; [] when all are well."""
    reasons = side_by_side(lambda problem: gold_failure(problem.answer, fmt, question=problem.question), problems)
    found = enumerate(zip(problems, reasons, strict=True), start=1)
    return [GoldFailure(number, problem.question, reason) for number, (problem, reason) in found if reason is not None]


def check_rows(rows: Sequence[Row], section: ProblemsSection, fmt: Format) -> list[GoldFailure]:
    """Return the rows of a table that are no problem (a column missing, a cell empty) or whose gold fails.

    For checking a data set: all bad rows are found, where loading it stops at the first.
    """
    failures, problems = [], {}
    for number, row in enumerate(rows, start=1):
        try:
            problems[number] = problem_from_row(row, section)
        except UserError as error:
            failures.append(GoldFailure(number, "", str(error)))
    numbers = list(problems)
    failures += [replace(found, row=numbers[found.row - 1]) for found in check_golds([*problems.values()], fmt)]
    return sorted(failures, key=lambda failure: failure.row)


def gold_failure(gold: str, fmt: Format, *, question: str = "") -> str | None:
    """Return in words why a gold answer fails, None when it is read, equals itself and survives the format.

    Example:
        >>> from mathgrpo.formats import get_format
        >>> gold_failure("1,200", get_format("xml")) is None
        True
    """
    unreadable = gold_problem(gold)
    if unreadable is not None:
        return f"gold {shown(gold)} cannot be graded: {unreadable}"
    verdict = grade(gold, gold, question=question)
    if verdict != "correct":
        return f"gold {shown(gold)} is graded {verdict} against itself"
    parsed = fmt.parse(fmt.write(PROBE_REASONING, gold))
    if not parsed.strict:
        return f"gold {shown(gold)} breaks the {fmt.name} format when written in it"
    verdict = grade(parsed.answer, gold, question=question)
    if verdict != "correct":
        return f"gold {shown(gold)} is graded {verdict} after a round trip through the {fmt.name} format"
    return None


def require_golds(problems: Sequence[Problem], fmt: Format, source: str) -> None:
    """Return when every gold passes.

    Raises:
        UserError: one does not. A run must not start on it.
    """
    failures = check_golds(problems, fmt)
    if failures:
        first = failures[0]
        raise UserError(
            f"problems.source={shown(source)}: {len(failures)} of {len(problems)} golds fail; the first: "
            f"{first.reason} (question {shown(first.question, 60)}); "
            "list all with mathgrpo check-data, then repair or leave them out (its --passing FILE writes the others)"
        )
