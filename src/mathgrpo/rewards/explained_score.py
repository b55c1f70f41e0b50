"""What each reward of a suite pays for one completion, and why."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mathgrpo.answers import Graded, grade_completion
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.reward import Row
from mathgrpo.rewards.reward_settings import own_section
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
        total: weighted sum of the parts; NaN if none of them applies.
        parts: one for each reward of the recipe, in its order.
        graded: what the grader says of the completion.
    """

    total: float
    parts: tuple[Paid, ...]
    graded: Graded


def explain(
    suite: RewardSuite, problem: Problem, text: str, prompt: Any, token_ids: Sequence[int] | None = None
) -> Explanation:
    """Return what a suite pays for a completion, with the reasons.

    Args:
        prompt: messages or text, for rewards that read it.
        token_ids: the completion's, the end token included; without them rewards on length do not apply.

    Raises:
        UserError: a reward raises or returns no number.
    """
    columns = {name: [value] for name, value in problem.columns.items()}
    columns |= {"answer": [problem.answer], "question": [problem.question]}
    graded = grade_completion(text, problem.answer, suite.fmt, question=problem.question)
    ids = None if token_ids is None else [list(token_ids)]
    scores = suite.score([prompt], [text], columns, completion_ids=ids, grades=[graded])
    row = Row(
        text, suite.fmt, problem.answer, problem.question, problem.columns, token_ids, suite.max_new_tokens, graded
    )
    parts = [_paid(suite, name, values[0], row) for name, values in scores.parts.items()]
    return Explanation(scores.totals[0], tuple(parts), graded)


def _paid(suite: RewardSuite, name: str, value: float | None, row: Row) -> Paid:
    weight = suite.weights[name]
    known = CATALOGUE.get(name)
    if known is None:
        return Paid(name, value, weight, None, None, _own_words(suite, name, value))
    settings = own_section(suite.settings, name)
    pay = known.pay_with(settings)
    return Paid(name, value, weight, pay.low, pay.high, known.in_words(row, value, settings))


def _own_words(suite: RewardSuite, name: str, value: float | None) -> str:
    """Return the first line of a user's docstring; nothing else is known of the function."""
    documented = inspect.getdoc(suite.functions[name]) or "your own function; a docstring would be shown here"
    applies = "" if value is not None else "does not apply; "
    return applies + documented.partition("\n")[0]
