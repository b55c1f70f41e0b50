"""What each reward of a suite pays for one completion, and why."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mathgrpo.answers import Graded
from mathgrpo.rewards.checked_calls import RewardFunction
from mathgrpo.rewards.reasons import reason
from mathgrpo.rewards.reward import Reward, Row
from mathgrpo.rewards.suite import RewardSuite
from mathgrpo.types import Problem


@dataclass(frozen=True, slots=True)
class Paid:
    """One reward's part of a total.

    Attributes:
        name: as in the recipe.
        value: unweighted; None: does not apply.
        weight: as in the recipe.
        low, high: bounds of the value, None where they are not known.
        why: the reason in words.
    """

    name: str
    value: float | None
    weight: float
    low: float | None
    high: float | None
    why: str

    @property
    def amount(self) -> float:
        """What it adds to the total."""
        return 0.0 if self.value is None else self.weight * self.value + 0.0  # -0.0 is 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """A completion's score.

    Attributes:
        problem, text: what was completed, and the completion.
        tokens: its length with the end token, None where it is not known.
        total: weighted sum of the parts; NaN if none of them applies.
        parts: one for each reward of the recipe, in its order.
        graded: what the grader says of the completion.
    """

    problem: Problem
    text: str
    tokens: int | None
    total: float
    parts: tuple[Paid, ...]
    graded: Graded


def explain(
    suite: RewardSuite,
    problem: Problem,
    text: str,
    prompt: Any,
    token_ids: Sequence[int] | None = None,
    opened: str | None = None,
) -> Explanation:
    """Return what a suite pays for a completion, with the reasons.

    Args:
        prompt: messages or text, for rewards that read it.
        token_ids: the completion's, the end token included; without them rewards on length do not apply.
        opened: what the prompt has begun of the completion; None: not known.

    Raises:
        UserError: a reward raises or returns no number.
    """
    columns = {**problem.columns, "answer": problem.answer, "question": problem.question}
    ids = None if token_ids is None else [list(token_ids)]
    each = {name: [value] for name, value in columns.items()}
    scores = suite.score([prompt], [text], each, completion_ids=ids, opened=[opened])
    row = Row(text, suite.fmt, columns, token_ids, suite.max_new_tokens, opened)
    parts = [_paid(suite, name, values[0], row) for name, values in scores.parts.items()]
    tokens = None if token_ids is None else len(token_ids)
    return Explanation(problem, text, tokens, scores.totals[0], tuple(parts), scores.grades[0])


def _paid(suite: RewardSuite, name: str, value: float | None, row: Row) -> Paid:
    weight, reward = suite.weights[name], suite.rewards[name]
    if isinstance(reward, Reward):
        return Paid(name, value, weight, reward.bounds.low, reward.bounds.high, reason(reward, row, value))
    return Paid(name, value, weight, None, None, _own_words(reward, value))


def _own_words(function: RewardFunction, value: float | None) -> str:
    """Return the first line of a user's docstring; nothing else is known of the function."""
    documented = inspect.getdoc(function) or "your own function; a docstring would be shown here"
    applies = "" if value is not None else "does not apply; "
    return applies + documented.partition("\n")[0]
