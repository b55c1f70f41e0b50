"""Named, weighted rewards become one total per completion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mathgrpo.answers import grade_completion
from mathgrpo.formats import Format
from mathgrpo.rewards.checked_calls import RewardFunction, call_rewards, conversational, with_keywords
from mathgrpo.rewards.registry import SOUND
from mathgrpo.rewards.reward_settings import Settings
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
            >>> from mathgrpo.rewards import build_suite
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
