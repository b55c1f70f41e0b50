"""One trial: an ordinary run in an ordinary run folder, watched at its evaluations."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluation_names
from mathgrpo.evaluation.evaluate import EVALUATION_FOLDER
from mathgrpo.files import read_json_object, to_json, write_atomically
from mathgrpo.problems import load_problem_sets
from mathgrpo.problems.sets import hold_out
from mathgrpo.runs.progress import Progress
from mathgrpo.runs.run_folder import CONFIG, read_info
from mathgrpo.training import Interrupted, train
from mathgrpo.training.train_recipe import resumed_recipe
from mathgrpo.types import Problem

OnEvaluation = Callable[[int, float], bool]
"""Told the step and the accuracy of an evaluation in a run; answers whether the run should stop there."""


class Pruned(Exception):
    """A trial that was stopped because others were better at the same step; its run can be resumed."""


class WatchedProgress(Progress):
    """A run's progress that asks after each evaluation between steps whether to go on. Plans are not shown again."""

    def __init__(self, inner: Progress, folder: Path, on_evaluation: OnEvaluation) -> None:
        self._inner, self._folder, self._on_evaluation = inner, folder, on_evaluation
        self._seen: set[int] = set()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Show a line about an evaluation, and act on the evaluation."""
        if not text.startswith("evaluation ") or text.startswith("evaluation  "):  # the second is the plan's
            return
        self._inner.say(f"  {text}")
        names = (name.removeprefix("step-") for name in evaluation_names(self._folder) if name.startswith("step-"))
        for step in sorted(int(name) for name in names if name.isdigit()):
            if step in self._seen:
                continue
            self._seen.add(step)
            if self._on_evaluation(step, accuracy(self._folder, f"step-{step}")):
                raise Interrupted(0)  # the loop then ends as it does after Ctrl-C: saved, and ready to be resumed

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show what is going on now."""
        self._inner.doing(what, done, total)

    def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float | None) -> None:
        """Show a step that is done."""
        self._inner.step(metrics, steps, seconds_left)


def run_trial(recipe: Recipe, progress: Progress, on_evaluation: OnEvaluation) -> float:
    """Return the accuracy at the end of a trial's run; a run folder that is there already is gone on with.

    Raises: Pruned when on_evaluation stops it; Interrupted after Ctrl-C; whatever training raises.
    """
    folder = Path(recipe.run.output_dir) / recipe.run.name
    watched = WatchedProgress(progress, folder, on_evaluation)
    try:
        if read_info(folder).get("status") == "finished":
            return accuracy(folder, "after")
        if (folder / CONFIG).is_file():
            train(resumed_recipe(folder, []), recipe_name="sweep", resume=folder, progress=watched)
        else:
            train(recipe, recipe_name="sweep", progress=watched)
    except Interrupted as stop:
        if stop.signum:
            raise
        raise Pruned from None
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return accuracy(folder, "after")


def accuracy(folder: Path, name: str) -> float:
    """Return the greedy accuracy of an evaluation of a run."""
    return float(read_json_object(folder / EVALUATION_FOLDER / f"{name}.json")["accuracy"])


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
