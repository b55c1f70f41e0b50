"""Length shaping, on tokens: the end token counts as one. Without token ids these rewards do not apply (None)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mathgrpo.rewards.graded_rows import graded_rows
from mathgrpo.rewards.settings import CosineSettings, OverlongSettings, RepetitionSettings
from mathgrpo.rewards.signature import Completions

Ids = Sequence[Sequence[int]]
CACHE_SHARE = 5
"""Without a cache setting the penalty grows over 1 / CACHE_SHARE of max_length (DAPO: 4,096 of 20,480)."""


def cosine(
    prompts: Any,
    completions: Completions,
    answer: Sequence[str],
    completion_ids: Ids | None = None,
    max_new_tokens: int = 0,
    settings: CosineSettings = CosineSettings(),  # noqa: B008  frozen
    **columns: Any,
) -> list[float | None]:
    """Return a reward that falls along a cosine with the length of a right answer, and may rise with a wrong one's.

    With L tokens of T = max_length: long + (short - long) (1 + cos(pi L / T)) / 2, from short at 0 to long at T; right
    and wrong answers have a pair of their own, and from T on every completion earns `over`.

    Range: that of the settings; 0 to 1 by default, where a wrong answer earns 0.
    Gaming: with wrong_long above wrong_short, text that only adds length; keep both at 0 unless answers get too short.
    Source: the cosine reward of Demystifying Long Chain-of-Thought Reasoning in LLMs, arXiv 2502.03373; there a wrong
        answer costs less the longer it is, and a completion of max_length is punished.
    """
    rows = graded_rows(completions, answer, **columns)
    if completion_ids is None:
        return [None] * len(rows)
    limit = length_limit(settings.max_length, max_new_tokens)
    return [_on_curve(row.right, len(ids), limit, settings) for row, ids in zip(rows, completion_ids, strict=True)]


def _on_curve(right: bool, length: int, limit: int, settings: CosineSettings) -> float:
    if length >= limit:
        return settings.over
    pair = (settings.right_short, settings.right_long) if right else (settings.wrong_short, settings.wrong_long)
    short, long = pair
    return long + (short - long) * (1 + math.cos(math.pi * length / limit)) / 2


def soft_overlong(
    prompts: Any,
    completions: Completions,
    completion_ids: Ids | None = None,
    max_new_tokens: int = 0,
    settings: OverlongSettings = OverlongSettings(),  # noqa: B008  frozen
    **columns: Any,
) -> list[float | None]:
    """Return 0 up to max_length - cache tokens, from there a straight line down to -1 at max_length, and -1 beyond.

    Range: -1 to 0.
    Gaming: none by itself; with too short a limit the model stops reasoning.
    Source: DAPO, arXiv 2503.14476, equation 13.
    """
    if completion_ids is None:
        return [None] * len(completions)
    limit = length_limit(settings.max_length, max_new_tokens)
    cache = overlong_cache(settings, limit)
    return [-min(max(len(ids) - (limit - cache), 0) / cache, 1.0) for ids in completion_ids]


def overlong_cache(settings: OverlongSettings, limit: int) -> int:
    """Return over how many tokens the penalty grows."""
    return settings.cache or max(limit // CACHE_SHARE, 1)


def length_limit(max_length: int, max_new_tokens: int) -> int:
    """Return the limit that a length reward counts against.

    Raises:
        ValueError: none is known; `build_suite` says so before a run starts.
    """
    if not max_length and not max_new_tokens:
        raise ValueError("no length limit: give max_length in the settings, or max_new_tokens")
    return max_length or max_new_tokens


def repetition(
    prompts: Any,
    completions: Completions,
    completion_ids: Ids | None = None,
    settings: RepetitionSettings = RepetitionSettings(),  # noqa: B008  frozen
    **columns: Any,
) -> list[float | None]:
    """Return minus the share of n-grams of tokens that stood before: 0 without any repetition, near -1 for a loop.

    Range: -1 to 0.
    Gaming: changing one token in n; and honest calculations repeat tokens too, so weigh it low.
    Source: arXiv 2502.03373, appendix C.2, as TRL's `get_repetition_penalty_reward` computes it.
    """
    if completion_ids is None:
        return [None] * len(completions)
    return [-repeated_share(ids, settings.ngram) for ids in completion_ids]


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
