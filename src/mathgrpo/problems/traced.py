"""Graded traces (`mathgrpo solve --problems`) as worked solutions to learn from.

A trace file differs from a table of problems in two ways: a question comes once for each way of solving it, and a
grader has marked the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mathgrpo.errors import UserError
from mathgrpo.problems.origin import GENERATED, has_one_split, load_problem_sets, read_split, split_sets
from mathgrpo.problems.row_problem import problem_from_row
from mathgrpo.problems.sets import ProblemSets, distinct
from mathgrpo.problems.table_rows import Row, shown
from mathgrpo.types import Problem

if TYPE_CHECKING:
    from mathgrpo.config.recipe import ProblemsSection

TRACE_COLUMNS = {"question", "answer", "reasoning", "completion", "verdict"}
"""By these columns a table is one of graded traces."""
HELD_OUT_SHARE = 10
"""A file of traces gives at most one question in this many to evaluation: it is there to be learned from."""


def load_worked_sets(section: ProblemsSection) -> ProblemSets:
    """Return training and held-out problems of a supervised recipe, as `load_problem_sets` does.

    Of a table of traces the correct ones with a reasoning are taken, every different one of a question: in `train` a
    question then stands once for each. Where a reward said what is correct, the answer to learn is the model's own, an
    equation say, and not the gold. At most a tenth of the questions is held out of a file without a split.

    Raises:
        UserError: the source cannot be read, or no trace in it is correct.
    """
    rows = [] if section.place == GENERATED else read_split(section, section.train_split)
    if not rows or not rows[0].values.keys() >= TRACE_COLUMNS:
        return load_problem_sets(section)
    section = section.model_copy(update={"columns": {"solution": "reasoning"} | section.columns})
    worked, notes = _correct(rows, section)
    questions, _, _ = distinct(worked)
    if has_one_split(section):
        most = max(1, len(questions) // HELD_OUT_SHARE)
        section = section.model_copy(update={"heldout_size": min(section.heldout_size, most)})
    sets = split_sets(questions, section)
    chosen = {problem.id for problem in sets.train}
    train = tuple(_as_written(problem) for problem in worked if problem.id in chosen)
    notes.append(f"train: {len(train)} worked solutions of {len(sets.train)} questions")
    return ProblemSets(train, sets.heldout, notes=(*notes, *sets.notes))


def _as_written(problem: Problem) -> Problem:
    settings, predicted = problem.columns.get("settings"), problem.columns.get("predicted")
    by_reward = isinstance(settings, Mapping) and "correct" in settings
    return replace(problem, answer=predicted) if by_reward and isinstance(predicted, str) else problem


def _correct(rows: Sequence[Row], section: ProblemsSection) -> tuple[list[Problem], list[str]]:
    """Return the problems of the rows to learn from, each (question, solution) once, and a note on what was left."""
    unique: dict[tuple[str, str], Problem] = {}
    for row in rows:
        if row.values.get("verdict") == "correct" and row.values.get(section.column("solution")):
            problem = problem_from_row(row, section)
            if problem.solution:
                unique.setdefault((problem.id, problem.solution), problem)
    if not unique:
        raise UserError(
            f"problems.source={shown(section.source)}: none of its {len(rows)} traces is correct and has a reasoning; "
            "sample more, or from a better model"
        )
    left = len(rows) - len(unique)
    note = f"traces: {left} of {len(rows)} are wrong, without reasoning or repeated"
    return list(unique.values()), [note] if left else []
