"""The rewards that a finished model is evaluated with, and what counts as correct."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathgrpo.errors import UserError, naming

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.formats import Format
    from mathgrpo.rewards import RewardSuite
    from mathgrpo.types import Problem

Correct = Annotated[
    str,
    typer.Option(
        "--correct",
        help='What counts as correct: answer, or a reward and the least it must pay, as in "countdown >= 1"; default: '
        "the run's own, else answer.",
    ),
]


def chosen_suite(
    recipe: Recipe, fmt: Format, correct: str, problems: Sequence[Problem], say: Callable[[str], None]
) -> RewardSuite:
    """Return a run's rewards as far as they can score these problems; the one that decides must.

    correct: in place of the recipe's evaluation.correct; a reward that the recipe has not is added, unpaid.
    say: told of each function of the user's that is left out because it does not load or does not take the problems.

    Raises: UserError when the reward that decides is left out, or applies to none of the problems.
    """
    from mathgrpo.rewards import CATALOGUE
    from mathgrpo.rewards.criterion import criterion_note, reward_named
    from mathgrpo.rewards.make_suite import loadable, recipe_suite
    from mathgrpo.rewards.pre_run_check import failing, require_judged

    named = reward_named(correct)
    known = named in CATALOGUE or ":" in named
    rewards = {**recipe.rewards, named: 0.0} if known and named not in recipe.rewards else recipe.rewards
    rewards, faults = loadable(rewards, kept=reward_named(correct or recipe.evaluation.correct))
    if correct:
        recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"correct": correct})})
    settings = {name: table for name, table in recipe.reward_settings.items() if name in rewards}
    recipe = recipe.model_copy(update={"rewards": rewards, "reward_settings": settings})
    with naming({"evaluation.correct": "--correct"}):
        suite = recipe_suite(recipe, fmt)
        judged = require_judged(suite, problems)
    faults = {**faults, **failing(suite, problems)}
    if suite.correct is not None and suite.correct.reward in faults:
        raise UserError(f"{faults[suite.correct.reward]}; it decides what is correct; count answers: --correct answer")
    notes = (
        criterion_note(recipe.evaluation.correct, suite),
        judged,
        *(f"{fault}; left out" for fault in faults.values()),
    )
    for note in filter(None, notes):
        say(f"note: {note}")
    return replace(suite, rewards=_without(suite.rewards, faults), weights=_without(suite.weights, faults))


def _without(table: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in names}
