"""Named, weighted rewards become one total per completion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mathgrpo.answers import grade_completion
from mathgrpo.errors import UserError
from mathgrpo.formats import Format
from mathgrpo.rewards.catalogue.answer_and_form import OUTSIDE
from mathgrpo.rewards.checked_calls import RewardFunction, call_rewards, conversational, with_keywords
from mathgrpo.rewards.function_file import load_reward, unknown_reward
from mathgrpo.rewards.reward import CATALOGUE, REWARDS, SOUND, Pay
from mathgrpo.rewards.reward_settings import Settings, own_section, reward_settings, with_settings
from mathgrpo.types import Graded

_OWN_KEYWORDS = frozenset((
    "prompts", "completions", "completion_ids", "completion_grades", "trainer_state", "response_format",
    "max_new_tokens", "settings",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scores:
    """What a batch of completions earned.

    Attributes:
        totals: weighted sum of the parts, one a completion; a part that is None adds nothing; NaN where all are None.
        parts: reward name -> unweighted value per completion, None where that reward does not apply.
    """

    totals: tuple[float, ...]
    parts: Mapping[str, tuple[float | None, ...]]

    def means(self) -> dict[str, float]:
        """Return each reward's mean over the completions it applies to; rewards that apply to none are left out."""
        applied = {name: [value for value in values if value is not None] for name, values in self.parts.items()}
        return {name: math.fsum(values) / len(values) for name, values in applied.items() if values}


@dataclass(frozen=True, slots=True)
class RewardSuite:
    """Reward functions with their weights, for one response format. Made by `build_suite`.

    Attributes:
        weights, functions: by reward name; a function has its settings in it already.
        settings: reward name -> settings, of those that take any.
        max_new_tokens: the run's limit on a completion; 0 where there is none.
    """

    weights: Mapping[str, float]
    functions: Mapping[str, RewardFunction]
    fmt: Format
    settings: Mapping[str, Settings] = field(default_factory=dict)
    max_new_tokens: int = 0

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        grades: Sequence[Graded] | None = None,
        trainer_state: Any = None,
    ) -> Scores:
        """Return what each completion earns.

        Args:
            prompts: one a completion, as messages or text.
            completions: texts.
            grades: the completions', where they are known; else they are graded here, once for all built-in rewards.
            columns: "answer" (gold), "question" and whatever else the problems have; one value a completion.

        Raises:
            UserError: a reward raises, or returns anything but one finite number or None per completion.

        Example:
            >>> from mathgrpo.formats import get_format
            >>> suite = build_suite({"correct": 1.0}, get_format("boxed"))
            >>> suite.score(["?"], ["so \\\\boxed{4}"], {"answer": ["4"], "question": ["2 + 2?"]}).totals
            (1.0,)
        """
        _check_lengths(prompts, completions, columns)
        call: dict[str, Any] = {key: value for key, value in columns.items() if key not in _OWN_KEYWORDS}
        call |= {"prompts": list(prompts), "completions": conversational(completions), "response_format": self.fmt}
        if completion_ids is not None:
            call["completion_ids"] = completion_ids
        if trainer_state is not None:
            call["trainer_state"] = trainer_state
        if self.max_new_tokens:
            call["max_new_tokens"] = self.max_new_tokens
        return scores_of(self._reading(grades, completions, columns), self.weights, completions, call)

    def _reading(
        self, grades: Sequence[Graded] | None, texts: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, RewardFunction]:
        """Return the functions, the built-in ones with the completions' grades; a user's get texts, as TRL's do."""
        built_in = SOUND & self.functions.keys()
        if not built_in or "answer" not in columns:
            return self.functions
        if grades is None:
            asked = zip(texts, columns["answer"], columns.get("question") or [""] * len(texts), strict=True)
            grades = [grade_completion(text, gold, self.fmt, question=question) for text, gold, question in asked]
        known = {name: with_keywords(self.functions[name], completion_grades=grades) for name in built_in}
        return {name: known.get(name, function) for name, function in self.functions.items()}


def scores_of(
    functions: Mapping[str, RewardFunction], weights: Mapping[str, float], texts: Sequence[str], call: Mapping[str, Any]
) -> Scores:
    """Return what functions pay for completions when they are called with these keywords, see `call_rewards`."""
    parts = {name: tuple(values) for name, values in call_rewards(functions, texts, call).items()}
    of_parts = [weights[name] for name in parts]
    return Scores(tuple(weighted_total(row, of_parts) for row in zip(*parts.values(), strict=True)), parts)


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


def _check_lengths(prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
    lengths = {"prompts": len(prompts), **{name: len(values) for name, values in columns.items()}}
    for name, length in lengths.items():
        if length != len(completions):
            raise ValueError(f"{name} has {length} rows for {len(completions)} completions")


def weighted_total(values: Sequence[float | None], weights: Sequence[float]) -> float:
    """Return the weighted sum of what rewards pay for a completion: None adds nothing, NaN where all are None."""
    paid = [weight * value for weight, value in zip(weights, values, strict=True) if value is not None]
    try:
        return math.fsum(paid) + 0.0 if paid else math.nan
    except (OverflowError, ValueError):  # larger than a number can be
        return math.inf


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
