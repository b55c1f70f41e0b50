"""A recipe's reward suite is made, and refused where a wrong answer could earn as much as a right one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mathgrpo.errors import UserError
from mathgrpo.formats import Format
from mathgrpo.rewards.catalogue.answer_and_form import OUTSIDE
from mathgrpo.rewards.checked_calls import RewardFunction
from mathgrpo.rewards.function_file import load_reward, unknown_reward
from mathgrpo.rewards.registry import CATALOGUE, REWARDS
from mathgrpo.rewards.reward import Pay
from mathgrpo.rewards.reward_settings import Settings, own_section, reward_settings, with_settings
from mathgrpo.rewards.suite import RewardSuite


def build_suite(
    weights: Mapping[str, float],
    fmt: Format,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    max_new_tokens: int = 0,
) -> RewardSuite:
    """Return the rewards a recipe names, ready to score completions in its format.

    Weights: finite. Built-in rewards take 0 (measured and logged, not paid) or more; a user's function may have a
    negative weight, as a penalty. At least one must not be 0.

    Args:
        settings: reward name -> its settings, as in a recipe's [reward_settings.NAME]; a user's function gets them as
            keyword arguments.
        max_new_tokens: the length that rewards on length count against when their settings name none.

    Raises:
        UserError: an unknown name or setting, a file or function that does not load, a weight that is not allowed, or
            sound rewards weighted so that a wrong answer can earn as much as a right one.
    """
    for name, weight in weights.items():
        _check_weight(name, weight)
    if not any(weights.values()):
        raise UserError(
            "rewards: no reward has a weight above 0; use for example rewards.correct=1.0 rewards.format=0.1"
        )
    functions = {name: _find(name) for name in weights}
    checked = reward_settings(functions, settings or {}, max_new_tokens)
    check_soundness(weights, checked)
    return RewardSuite(
        MappingProxyType({name: float(weight) for name, weight in weights.items()}),
        MappingProxyType({name: with_settings(function, checked.get(name)) for name, function in functions.items()}),
        fmt,
        MappingProxyType(checked),
        max_new_tokens,
    )


def _find(name: str) -> RewardFunction:
    if name in REWARDS:
        return REWARDS[name]
    if ":" in name:
        return load_reward(name)
    raise unknown_reward(name, list(REWARDS))


def _check_weight(name: str, weight: float) -> None:
    if not math.isfinite(weight):
        raise UserError(f"rewards.{name}={weight}: a weight must be a finite number")
    if name in REWARDS and weight < 0:
        raise UserError(f"rewards.{name}={weight}: the weight of a built-in reward is 0 (logged only) or more")


def check_soundness(weights: Mapping[str, float], settings: Mapping[str, Settings]) -> None:
    """Return when a wrong answer earns less than a right one, whatever the completions look like.

    Only suites of sound built-in rewards are checked: copies of reference systems keep their faults, and of a user's
    function nothing is known. What pays wrong answers must stay below the least right answer, one marked outside the
    format (`OUTSIDE` of correct); with penalties, a right answer in the format with all of them must stay above.

    Raises:
        UserError: the weights do not allow that.
    """
    if not all(name in CATALOGUE and CATALOGUE[name].sound for name in weights):
        return
    pays = {name: CATALOGUE[name].pay_with(own_section(settings, name)) for name in weights}
    _check_wrong(weights, pays)
    if not any(weight for name, weight in weights.items() if CATALOGUE[name].pays_right):
        raise UserError("rewards: nothing pays for being right; add rewards.correct=1.0")
    _check_penalties(weights, pays)


def _check_wrong(weights: Mapping[str, float], pays: Mapping[str, Pay]) -> None:
    wrong = _sum(weights, {name: pay.wrong for name, pay in pays.items()})
    least = _least_right(weights, pays)
    if wrong <= 0 or wrong < least:
        return
    paid = [f"rewards.{name}={weights[name]}" for name, pay in pays.items() if weights[name] * pay.wrong > 0]
    source = f"{OUTSIDE} of rewards.correct" if "correct" in weights else "what a right answer earns"
    together = "" if len(paid) == 1 else f" (together {wrong:g})"
    hint = ", or rewards.format, which pays right answers only" if "rewards.format_" in paid[0] else ""
    raise UserError(
        f"{', '.join(paid)}{together}: a wrong answer in perfect form would earn as much as a right one; "
        f"keep what wrong answers earn below {least:g} ({source}){hint}"
    )


def _check_penalties(weights: Mapping[str, float], pays: Mapping[str, Pay]) -> None:
    penalty = -_sum(weights, {name: min(pay.right, 0.0) for name, pay in pays.items()})
    if penalty <= 0:
        return
    right = _sum(weights, {name: max(pay.right, 0.0) for name, pay in pays.items()})
    wrong = _sum(weights, {name: pay.wrong for name, pay in pays.items()})
    if right - penalty <= wrong:
        named = [f"rewards.{name}={weights[name]}" for name, pay in pays.items() if weights[name] * pay.right < 0]
        raise UserError(
            f"{', '.join(named)}: penalties of up to {penalty:g} could make a right answer earn no more than a wrong "
            f"one; keep them together below {right - wrong:g}, or raise rewards.correct"
        )


def _least_right(weights: Mapping[str, float], pays: Mapping[str, Pay]) -> float:
    """Return what the least right answer earns before penalties."""
    if "correct" in weights:
        return OUTSIDE * weights["correct"]
    return _sum(weights, {name: max(pay.right, 0.0) for name, pay in pays.items()})


def _sum(weights: Mapping[str, float], amounts: Mapping[str, float]) -> float:
    return sum(weights[name] * amount for name, amount in amounts.items() if weights[name])
