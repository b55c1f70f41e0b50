"""A recipe's reward suite is made, and refused where a wrong answer could earn as much as a right one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from mathgrpo.config.load_recipe import validated
from mathgrpo.config.recipe import Recipe, Section
from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.formats import Format
from mathgrpo.rewards.catalogue.answer_and_form import OUTSIDE
from mathgrpo.rewards.catalogue.length import LengthSettings
from mathgrpo.rewards.checked_calls import RewardFunction, with_keywords
from mathgrpo.rewards.criterion import ANSWER, AUTO, criterion_of
from mathgrpo.rewards.function_file import load_reward
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.reward import Reward
from mathgrpo.rewards.suite import RewardSuite


def build_suite(
    weights: Mapping[str, float],
    fmt: Format,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    max_new_tokens: int = 0,
    correct: str = AUTO,
) -> RewardSuite:
    """Return the rewards a recipe names, ready to score completions in its format.

    Weights: finite. Built-in rewards take 0 (measured and logged, not paid) or more; a user's function may have a
    negative weight, as a penalty. At least one must not be 0.

    Args:
        settings: reward name -> its settings, as in a recipe's [reward_settings.NAME]; a user's function gets them as
            keyword arguments.
        max_new_tokens: the length that rewards on length count against when their settings name none.
        correct: what verdicts go by, as in evaluation.correct.

    Raises:
        UserError: an unknown name or setting, a file or function that does not load, a weight that is not allowed,
            sound rewards weighted so that a wrong answer can earn as much as a right one, or nothing to count by.
    """
    for name, weight in weights.items():
        _check_weight(name, weight)
    if not any(weights.values()):
        raise UserError(
            "rewards: no reward has a weight above 0; use for example rewards.correct=1.0 rewards.format=0.1"
        )
    found, tables = {name: _find(name) for name in weights}, settings or {}
    for name in tables:
        if name not in found:
            raise UserError(
                f"reward_settings.{name}: this reward is not in [rewards]; add rewards.{name}=1.0 or remove the table"
            )
    rewards = {name: _with_settings(name, each, tables.get(name, {}), max_new_tokens) for name, each in found.items()}
    _check_soundness(weights, rewards)
    paid = {name: float(weight) for name, weight in weights.items()}
    criterion = criterion_of(correct, weights, rewards)
    return RewardSuite(MappingProxyType(paid), MappingProxyType(rewards), fmt, max_new_tokens, criterion)


def recipe_suite(recipe: Recipe, fmt: Format) -> RewardSuite:
    """Return a recipe's rewards, as `build_suite` does."""
    limit, correct = recipe.rollout.max_new_tokens, recipe.evaluation.correct
    return build_suite(recipe.rewards, fmt, recipe.reward_settings, limit, correct)


def _find(name: str) -> Reward | RewardFunction:
    if name in CATALOGUE:
        return CATALOGUE[name]
    if ":" in name:
        return load_reward(name)
    hint = did_you_mean(name, list(CATALOGUE)) or ";"
    raise UserError(f'rewards.{name}: no such reward{hint} known: {", ".join(CATALOGUE)}, or "file.py:function"')


def _check_weight(name: str, weight: float) -> None:
    if not math.isfinite(weight):
        raise UserError(f"rewards.{name}={weight}: a weight must be a finite number")
    if name in CATALOGUE and weight < 0:
        raise UserError(f"rewards.{name}={weight}: the weight of a built-in reward is 0 (logged only) or more")


def _with_settings(
    name: str, reward: Reward | RewardFunction, table: Mapping[str, Any], max_new_tokens: int
) -> Reward | RewardFunction:
    """Return a reward with what its table sets; a user's function with keywords fixed.

    Raises:
        UserError: it takes no settings or none of this name, a value is not allowed, or a reward on length has no
            length to count against.
    """
    if not isinstance(reward, Reward):
        return with_keywords(reward, **_keywords(name, reward, table)) if table else reward
    if reward.settings is None:
        if table:
            raise UserError(f"reward_settings.{name}: this reward takes no settings; remove the table")
        return reward
    settings = _section(name, type(reward.settings), table)
    if isinstance(settings, LengthSettings):
        try:
            settings.limit(max_new_tokens)
        except ValueError as error:
            raise UserError(f"reward_settings.{name}.{error}") from None
    return replace(reward, settings=settings)


def _section(name: str, section: type[Section], table: Mapping[str, Any]) -> Section:
    try:
        return validated(section, dict(table))
    except UserError as error:
        lines = (f"reward_settings.{name}.{line.lstrip('=')}" for line in str(error).splitlines())
        raise UserError("\n".join(lines)) from None


def _keywords(name: str, function: RewardFunction, table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a user's function, if it has parameters of these names."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise UserError(
            f'reward_settings."{name}": its parameters are not known; wrap it in a function of your own'
        ) from None
    own = [
        key
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and key not in ("prompts", "completions", "answer", "question")
    ]
    for key in table:
        if key not in own:
            known = ", ".join(own) or "none"
            raise UserError(f'reward_settings."{name}".{key}: the function has no such parameter; it has: {known}')
    return table


def _check_soundness(weights: Mapping[str, float], rewards: Mapping[str, Reward | RewardFunction]) -> None:
    """Return when a wrong answer earns less than a right one, whatever the completions look like.

    Only suites of sound built-in rewards are checked: copies of reference systems keep their faults, and of a user's
    function nothing is known. What pays wrong answers must stay below the least right answer, one marked outside the
    format (`OUTSIDE` of correct); with penalties, a right answer in the format with all of them must stay above.

    Raises:
        UserError: the weights do not allow that.
    """
    sound = {name: each for name, each in rewards.items() if isinstance(each, Reward) and each.sound}
    if len(sound) < len(rewards):
        return
    wrong = _total(weights, {name: each.bounds.wrong for name, each in sound.items()})
    right = _total(weights, {name: max(each.bounds.right, 0.0) for name, each in sound.items()})
    penalty = -_total(weights, {name: min(each.bounds.right, 0.0) for name, each in sound.items()})
    least = OUTSIDE * weights["correct"] if weights.get("correct") else right
    if not any(weights[name] for name, each in sound.items() if each.pays_right):
        raise UserError("rewards: nothing pays for being right; add rewards.correct=1.0")
    if wrong > 0 and wrong >= least:
        named = [name for name, each in sound.items() if weights[name] * each.bounds.wrong > 0]
        together = "" if len(named) == 1 else f" (together {wrong:g})"
        source = f"{OUTSIDE} of rewards.correct" if weights.get("correct") else "what a right answer earns"
        hint = ", or rewards.format, which pays right answers only" if named[0].startswith("format_") else ""
        raise UserError(
            f"{_named(weights, named)}{together}: a wrong answer in perfect form would earn as much as a right one; "
            f"keep what wrong answers earn below {least:g} ({source}){hint}"
        )
    if penalty > 0 and right - penalty <= wrong:
        named = [name for name, each in sound.items() if weights[name] * each.bounds.right < 0]
        raise UserError(
            f"{_named(weights, named)}: penalties of up to {penalty:g} could make a right answer earn no more than a "
            f"wrong one; keep them together below {right - wrong:g}, or raise rewards.correct"
        )


def _total(weights: Mapping[str, float], amounts: Mapping[str, float]) -> float:
    return sum(weights[name] * amount for name, amount in amounts.items() if weights[name])


def _named(weights: Mapping[str, float], names: Sequence[str]) -> str:
    return ", ".join(f"rewards.{name}={weights[name]}" for name in names)


def loadable(weights: Mapping[str, float], kept: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return the weights without the user's functions that do not load, and why each does not.

    A finished model is measured where its reward files may not be. kept: left in, so that its fault is raised.
    """
    faults: dict[str, str] = {}
    for name in weights:
        if name not in CATALOGUE and name != kept:
            try:
                _find(name)
            except UserError as error:
                faults[name] = str(error)
    left = {name: weight for name, weight in weights.items() if name not in faults}
    return left if any(left.values()) else {**left, "correct": 1.0}, faults


def settled(recipe: Recipe, fmt: Format) -> Recipe:
    """Return a recipe whose evaluation.correct says what "auto" stands for, so that other weights do not change it."""
    criterion = recipe_suite(recipe, fmt).correct
    correct = ANSWER if criterion is None else str(criterion)
    return recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"correct": correct})})
