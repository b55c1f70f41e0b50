"""Named, weighted rewards become one total per completion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mathgrpo.answers.side_by_side import side_by_side
from mathgrpo.formats import Format
from mathgrpo.rewards.checked_calls import RewardFunction, call_rewards, conversational
from mathgrpo.rewards.criterion import Criterion
from mathgrpo.rewards.reward import Reward, rows_of
from mathgrpo.types import Graded, Problem


@dataclass(frozen=True, slots=True)
class Scores:
    """What a batch of completions earned.

    Attributes:
        totals: weighted sum of the parts, one a completion; a part that is None adds nothing; NaN where all are None.
        parts: reward name -> unweighted value per completion, None where that reward does not apply.
        grades: what grader or criterion say of each completion; none where the gold answers are not known.
    """

    totals: tuple[float, ...]
    parts: Mapping[str, tuple[float | None, ...]]
    grades: tuple[Graded, ...] = ()


@dataclass(frozen=True, slots=True)
class RewardSuite:
    """Rewards with their weights, for one response format. Made by `build_suite`.

    Attributes:
        weights: by reward name.
        rewards: built-in ones and users' functions by name, each with its settings in it.
        max_new_tokens: the run's limit on a completion; 0 where there is none.
        correct: what verdicts go by; None: the gold answer.
    """

    weights: Mapping[str, float]
    rewards: Mapping[str, Reward | RewardFunction]
    fmt: Format
    max_new_tokens: int = 0
    correct: Criterion | None = None

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        opened: Sequence[str | None] | None = None,
    ) -> Scores:
        """Return what each completion earns.

        Args:
            prompts: one a completion, as messages or text.
            completions: texts.
            columns: "answer" (gold), "question" and whatever else the problems have; one value a completion.
            opened: what each prompt has begun of its completion, see `Prompt`; None: not known.

        Raises:
            UserError: a user's function raises, or returns anything but one finite number or None per completion.

        Example:
            >>> from mathgrpo.formats import get_format
            >>> from mathgrpo.rewards import build_suite
            >>> suite = build_suite({"correct": 1.0}, get_format("boxed"))
            >>> suite.score(["?"], ["so \\\\boxed{4}"], {"answer": ["4"], "question": ["2 + 2?"]}).totals
            (1.0,)
        """
        _check_lengths(prompts, completions, columns)
        rows = rows_of(completions, self.fmt, columns, completion_ids, self.max_new_tokens, opened)
        built_in = {name: reward for name, reward in self.rewards.items() if isinstance(reward, Reward)}
        grades = tuple(side_by_side(lambda row: row.graded, rows)) if "answer" in columns else ()
        paid = {name: side_by_side(reward.value, rows) for name, reward in built_in.items()}
        if users := {name: function for name, function in self.rewards.items() if name not in built_in}:
            call = {
                **columns, "prompts": list(prompts), "completions": conversational(completions),
                "response_format": self.fmt, "completion_ids": completion_ids, "trainer_state": trainer_state,
                "max_new_tokens": self.max_new_tokens or None,
            }  # fmt: skip
            paid |= call_rewards(users, completions, call)
        if self.correct is not None:
            grades = self.correct.judged(grades, paid[self.correct.reward])
        return scores_of({name: paid[name] for name in self.rewards}, self.weights, grades)


def columns_of(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """Return what reward functions receive by name, one value a problem: question, answer, further columns.

    A column that only some problems have is None for the others.
    """
    names = dict.fromkeys(name for problem in problems for name in problem.columns)
    columns: dict[str, list[Any]] = {name: [problem.columns.get(name) for problem in problems] for name in names}
    columns["question"] = [problem.question for problem in problems]
    columns["answer"] = [problem.answer for problem in problems]
    return columns


def scores_of(
    paid: Mapping[str, Sequence[float | None]], weights: Mapping[str, float], grades: tuple[Graded, ...] = ()
) -> Scores:
    """Return what rewards pay, with the totals."""
    of_parts = [weights[name] for name in paid]
    totals = tuple(weighted_total(row, of_parts) for row in zip(*paid.values(), strict=True))
    return Scores(totals, {name: tuple(values) for name, values in paid.items()}, grades)


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
