"""The problems of a sweep's trials: a part of the training problems judges them, never the held-out ones.

Choosing the best of many trials on the problems that later judge the winner would flatter it. The recipe's held-out
problems are therefore not read by any trial: its training problems are split once, by question hash, and written to the
sweep folder as two files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.errors import UserError
from mathgrpo.files import to_json, write_atomically
from mathgrpo.problems import load_problem_sets
from mathgrpo.problems.sets import hold_out
from mathgrpo.types import Problem

FOLDER, TRAIN, VALIDATION = "problems", "train", "validation"


def write_problems(recipe: Recipe, folder: Path, validation_size: int) -> None:
    """Write FOLDER/train.jsonl and FOLDER/validation.jsonl below a sweep folder.

    Raises: UserError when too few problems would stay for training.
    """
    train = load_problem_sets(recipe.problems).train
    if 2 * validation_size > len(train):
        raise UserError(
            f"--validation {validation_size}: there are {len(train)} training problems, and at least half must stay "
            f"for training; use {len(train) // 2} or less"
        )
    sets = hold_out(train, recipe.problems.source, train_size=len(train), heldout_size=validation_size)
    for name, problems in ((TRAIN, sets.train), (VALIDATION, sets.heldout)):
        write_atomically(folder / FOLDER / f"{name}.jsonl", _lines(problems))


def trial_problems(section: ProblemsSection, folder: Path) -> ProblemsSection:
    """Return the [problems] section of a trial: the two files."""
    sizes = {name: _count(folder / FOLDER / f"{name}.jsonl") for name in (TRAIN, VALIDATION)}
    return ProblemsSection(
        source=str(folder / FOLDER), splits=(TRAIN, VALIDATION), columns={"solution": "solution"},
        train_size=sizes[TRAIN], heldout_size=sizes[VALIDATION], max_value=section.max_value,
    )  # fmt: skip


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _lines(problems: Sequence[Problem]) -> str:
    return "".join(to_json(_row(problem)) + "\n" for problem in problems)


def _row(problem: Problem) -> dict[str, Any]:
    own = {"question": problem.question, "answer": problem.answer, "solution": problem.solution or ""}
    return {name: value for name, value in problem.columns.items() if name not in own} | own
