"""One trial: an ordinary run in an ordinary run folder, watched at its evaluations."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mathgrpo.config import Recipe
from mathgrpo.errors import UserError
from mathgrpo.evaluation import Evaluation
from mathgrpo.evaluation.evaluate import EVALUATION_FOLDER
from mathgrpo.files import read_json_object, to_json, write_atomically
from mathgrpo.problems import load_problem_sets
from mathgrpo.problems.sets import hold_out
from mathgrpo.runs.hook import Hook, Run
from mathgrpo.runs.progress import make_progress
from mathgrpo.runs.run_folder import CONFIG, read_info
from mathgrpo.training import Interrupted, train
from mathgrpo.training.train_recipe import resumed_recipe

FOLDER, TRAIN, VALIDATION, TRIALS = "problems", "train", "validation", "trials"
EVALUATIONS = 4
"""Evaluations of a trial on the way to its end, where the recipe names no distance between them."""

OnEvaluation = Callable[[int, float], bool]
"""Told the step and the objective's value in an evaluation of a run; answers whether the run should stop there."""
CORRECT = "correct"
"""The objective that is the accuracy: the share of what the recipe counts as correct."""


class Pruned(Exception):
    """A trial that was stopped because others were better at the same step; its run can be resumed."""


class Watch(Hook):
    """Asks after each evaluation between steps whether to go on."""

    def __init__(self, on_evaluation: OnEvaluation, objective: str = CORRECT) -> None:
        self._on_evaluation, self._objective = on_evaluation, objective

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        """Act on the evaluation."""
        step = name.removeprefix("step-")
        if step.isdigit() and self._on_evaluation(int(step), value_of(evaluation.summary(), self._objective)):
            raise Interrupted(0)  # the loop then ends as it does after Ctrl-C: saved, and ready to be resumed


def value_of(summary: Mapping[str, Any], objective: str) -> float:
    """Return what an evaluation is worth: its accuracy, or the mean of a reward.

    Raises: UserError when the reward applied to no completion.
    """
    name = "accuracy" if objective == CORRECT else f"reward/{objective}"
    if name not in summary:
        raise UserError(f"--objective {objective}: this reward applied to no validation problem; choose another")
    return float(summary[name])


def run_trial(recipe: Recipe, on_evaluation: OnEvaluation, objective: str = CORRECT) -> float:
    """Return the objective's value at the end of a trial's run; a run folder that is there already is gone on with.

    Raises: Pruned when on_evaluation stops it; Interrupted after Ctrl-C; whatever training raises.
    """
    folder = Path(recipe.run.output_dir) / recipe.run.name
    resume = folder if (folder / CONFIG).is_file() else None
    try:
        if read_info(folder).get("status") != "finished":
            train(
                resumed_recipe(folder, []) if resume else recipe, recipe_name="sweep", resume=resume,
                progress=make_progress(brief=True), hooks=[Watch(on_evaluation, objective)],
            )  # fmt: skip
    except Interrupted as stop:
        if stop.signum:
            raise
        raise Pruned from None
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return value_of(read_json_object(folder / EVALUATION_FOLDER / "after.json"), objective)


def write_problems(recipe: Recipe, folder: Path, validation_size: int) -> None:
    """Write problems/train.jsonl and problems/validation.jsonl below a sweep folder.

    Raises: UserError when too few problems would stay for training.
    """
    train = load_problem_sets(recipe.problems).train
    if 2 * validation_size > len(train):
        raise UserError(
            f"--validation {validation_size}: there are {len(train)} training problems, and at least half must stay "
            f"for training; {f'use {len(train) // 2} or less' if len(train) > 1 else 'give more problems'}"
        )
    sets = hold_out(train, recipe.problems.source, train_size=len(train), heldout_size=validation_size)
    for name, problems in ((TRAIN, sets.train), (VALIDATION, sets.heldout)):
        own = ({"question": p.question, "answer": p.answer, "solution": p.solution or ""} for p in problems)
        rows = (dict(problem.columns) | row for problem, row in zip(problems, own, strict=True))
        write_atomically(folder / FOLDER / f"{name}.jsonl", "".join(to_json(row) + "\n" for row in rows))


def trial_recipe(recipe: Recipe, folder: Path, number: int, validation_size: int) -> Recipe:
    """Return the recipe of a trial: on the two files, evaluated on its way, in a run folder of its own."""
    problems = {
        "source": str(folder / FOLDER), "splits": (TRAIN, VALIDATION), "columns": {"solution": "solution"},
        "heldout_size": validation_size,
    }  # fmt: skip
    run = {"name": f"trial-{number + 1:03d}", "output_dir": str(folder / TRIALS)}
    every = recipe.training.evaluate_every or max(1, recipe.training.steps // EVALUATIONS)
    return recipe.model_copy(update={
        "run": recipe.run.model_copy(update=run),
        "problems": recipe.problems.model_copy(update=problems),
        "training": recipe.training.model_copy(update={"evaluate_every": every}),
    })  # fmt: skip
