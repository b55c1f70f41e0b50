"""The shape every reward function has here and in TRL."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mathgrpo.formats import Format

Completions = Sequence[Any]
"""Conversational completions, [[{"role": "assistant", "content": text}], ...]; TRL passes texts for plain prompts."""

RewardFunction = Callable[..., Any]
"""f(prompts, completions, **columns) -> one number or None (does not apply) per completion; may be async.

Called with keywords, as TRL does. Columns are sequences as long as the completions: every column of the problem set,
"answer" (the gold) and "question" always. Beside them come response_format, the run's `Format`, and max_new_tokens,
completion_ids and trainer_state where there are any. Take `**columns` for those that are not used.
"""


def conversational(texts: Sequence[str]) -> list[list[dict[str, str]]]:
    """Return texts as conversational completions."""
    return [[{"role": "assistant", "content": text}] for text in texts]


def completion_texts(completions: Completions) -> list[str]:
    """Return the texts of conversational or plain completions."""
    return [each if isinstance(each, str) else str(each[0]["content"]) for each in completions]


def bound(reward: RewardFunction, fmt: Format, **fixed: Any) -> RewardFunction:
    """Return the reward with its response format fixed and its name kept, to hand to another trainer.

    Args:
        fixed: further keyword arguments to fix, such as settings or max_new_tokens.

    Example:
        >>> from mathgrpo.formats import get_format
        >>> from mathgrpo.rewards import REWARDS
        >>> bound(REWARDS["correct"], get_format("boxed"))(prompts=["?"], completions=["so \\boxed{4}"], answer=["4"])
        [1.0]
    """
    return with_keywords(reward, response_format=fmt, **fixed)


def with_keywords(function: RewardFunction, **fixed: Any) -> RewardFunction:
    """Return the function with these keywords fixed, whatever it is called with; its name kept."""

    @functools.wraps(function)
    def fixed_function(**columns: Any) -> Any:
        return function(**{**columns, **fixed})

    with suppress(TypeError, ValueError):  # a builtin has no signature
        own = inspect.signature(function)
        left = [parameter for key, parameter in own.parameters.items() if key not in fixed]
        fixed_function.__signature__ = own.replace(parameters=left)  # type: ignore[attr-defined]
    return fixed_function
