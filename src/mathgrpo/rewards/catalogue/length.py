"""Length shaping, on tokens: the end token counts as one. Without token ids these rewards do not apply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from mathgrpo.config.recipe import Section
from mathgrpo.rewards.reward import Pay, Row, reward

CACHE_SHARE = 5
"""Without a cache setting the penalty grows over 1 / CACHE_SHARE of max_length (DAPO: 4,096 of 20,480)."""


class LengthSettings(Section):
    max_length: int = Field(0, ge=0)
    """Tokens from which on a completion is over length; 0: rollout.max_new_tokens."""

    def limit(self, max_new_tokens: int) -> int:
        """Return the length to count against.

        Raises:
            ValueError: there is none, or another setting does not go with it; `build_suite` says so before a run.
        """
        if not self.max_length and not max_new_tokens:
            raise ValueError("max_length=0: means rollout.max_new_tokens, and there is none; give a number")
        return self.max_length or max_new_tokens


class CosineSettings(LengthSettings):
    right_short: float = 1.0
    """For a right answer of no length."""
    right_long: float = 0.5
    """For a right answer just below max_length."""
    wrong_short: float = 0.0
    """For a wrong answer of no length."""
    wrong_long: float = 0.0
    """For a wrong answer just below max_length."""
    over: float = 0.0
    """For any completion of max_length tokens or more."""

    @model_validator(mode="after")
    def _right_beats_wrong(self) -> CosineSettings:
        if min(self.right_short, self.right_long) <= max(self.wrong_short, self.wrong_long):
            raise ValueError("right_short and right_long must be above wrong_short and wrong_long")
        return self

    def pay(self) -> Pay:
        """Return the bounds of the curve."""
        right = min(self.right_short, self.right_long, self.over)
        wrong = max(self.wrong_short, self.wrong_long, self.over)
        every = (right, wrong, self.right_short, self.right_long, self.wrong_short, self.wrong_long)
        return Pay(min(every), max(every), wrong=max(wrong, 0.0), right=right)


@reward(
    family="length", pay=CosineSettings.pay, settings=CosineSettings(), needs_tokens=True,
    pays_right=True,
)  # fmt: skip
def cosine(row: Row, settings: CosineSettings) -> float:
    """Return from right_short to right_long along a cosine with the tokens of a right answer, likewise for wrong ones;
    over from max_length on.

    With L tokens of T = max_length: long + (short - long) (1 + cos(pi L / T)) / 2, from short at 0 to long at T. Keep
    wrong_short and wrong_long at 0 unless answers get too short.

    Gaming: with wrong_long above wrong_short, text that only adds length.
    Source: the cosine reward of Demystifying Long Chain-of-Thought Reasoning in LLMs, arXiv 2502.03373.
    """
    length, limit = len(row.token_ids or ()), settings.limit(row.max_new_tokens)
    if length >= limit:
        return settings.over
    right = (settings.right_short, settings.right_long)
    short, long = right if row.right else (settings.wrong_short, settings.wrong_long)
    return along_cosine(short, long, math.pi * length / limit)


def along_cosine(short: float, long: float, angle: float) -> float:
    """Return the point at an angle of half a cosine that goes from `short` at 0 to `long` at pi."""
    return long + (short - long) * (1 + math.cos(angle)) / 2


class OverlongSettings(LengthSettings):
    cache: int = Field(0, ge=0)
    """Tokens before max_length over which it grows; 0: a fifth of max_length."""

    def limit(self, max_new_tokens: int) -> int:
        """Return the length at which the penalty is whole. Raises ValueError also for a cache that is longer."""
        limit = super().limit(max_new_tokens)
        if self.cache > limit:
            raise ValueError(f"cache={self.cache}: longer than max_length, which is {limit}; use at most that")
        return limit

    def begin(self, max_new_tokens: int) -> int:
        """Return the length above which the penalty begins."""
        limit = self.limit(max_new_tokens)
        return limit - (self.cache or max(limit // CACHE_SHARE, 1))


@reward(family="length", pay=Pay(-1, 0, right=-1), settings=OverlongSettings(), needs_tokens=True)
def soft_overlong(row: Row, settings: OverlongSettings) -> float:
    """Return 0 up to max_length - cache tokens, from there a straight line to -1 at max_length, -1 beyond.

    Gaming: none by itself; with too short a limit the model stops reasoning.
    Source: DAPO, arXiv 2503.14476, equation 13.
    """
    begin, limit = settings.begin(row.max_new_tokens), settings.limit(row.max_new_tokens)
    return overlong_penalty(len(row.token_ids or ()), begin, limit)


def overlong_penalty(length: int, begin: int, limit: int) -> float:
    """Return 0 up to `begin`, from there a straight line to -1 at `limit`, -1 beyond."""
    return 0.0 if length <= begin else -1.0 if length >= limit else (begin - length) / (limit - begin)


class RepetitionSettings(Section):
    ngram: int = Field(3, ge=1, le=50)
    """Tokens in the sequences that are compared."""


@reward(family="length", pay=Pay(-1, 0, right=-1), settings=RepetitionSettings(), needs_tokens=True)
def repetition(row: Row, settings: RepetitionSettings) -> float:
    """Return minus the share of token n-grams that stood before.

    0 without any repetition, near -1 for a loop. Weigh it low.

    Gaming: changing one token in n; honest calculations repeat tokens too.
    Source: arXiv 2502.03373, appendix C.2.
    """
    return -repeated_share(row.token_ids or (), settings.ngram)


def repeated_share(items: Sequence[Any], ngram: int) -> float:
    """Return 1 - distinct / all n-grams; 0 for fewer items than n.

    Example:
        >>> repeated_share([1, 2, 3, 4], 2), repeated_share([5, 5, 5, 5, 5], 2)
        (0.0, 0.75)
    """
    total = len(items) - ngram + 1
    if total < 1:
        return 0.0
    distinct = len(set(zip(*(items[start:] for start in range(ngram)), strict=False)))
    return 1.0 - distinct / total
