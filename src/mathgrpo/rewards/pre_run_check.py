"""Rewards tried before a run starts: a fault in one is told then, not after the first rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mathgrpo.answers.gold_check import PROBE_REASONING
from mathgrpo.errors import UserError
from mathgrpo.formats.chat import problem_messages
from mathgrpo.rewards.checked_calls import conversational
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.suite import RewardSuite
from mathgrpo.types import Problem


def try_rewards(
    suite: RewardSuite, problems: Sequence[Problem], token_ids: Callable[[str], Sequence[int]] | None = None
) -> None:
    """Return when the user's own functions can score, and every weighted reward applies to some problem.

    The functions are called once, with two completions of the first problem: its gold answer in the format, and no text
    at all, which a model may write too.

    Raises:
        UserError: a function raises or returns anything but numbers, or a reward needs columns that no problem has.
    """
    names = tuple(dict.fromkeys(name for problem in problems for name in problem.columns))
    for name, weight in suite.weights.items():
        if weight and name in CATALOGUE and CATALOGUE[name].columns:
            _require_applies(suite, name, problems)
    own = {name: function for name, function in suite.functions.items() if name not in CATALOGUE}
    if not own or not problems:
        return
    first = problems[0]
    texts = [suite.fmt.write(PROBE_REASONING, first.answer), ""]
    columns = {name: [first.columns.get(name)] * 2 for name in names}
    columns |= {"answer": [first.answer] * 2, "question": [first.question] * 2}
    ids = None if token_ids is None else [list(token_ids(text)) for text in texts]
    try:
        replace(suite, functions=own).score(
            [problem_messages(first, suite.fmt)] * 2, texts, columns, completion_ids=ids
        )
    except UserError as error:
        raise UserError(f"{error} (tried on a right answer and on no text, before step 0)") from error


def _require_applies(suite: RewardSuite, name: str, problems: Sequence[Problem]) -> None:
    """Raise UserError when a built-in reward applies to no problem, for want of a column."""
    needed = CATALOGUE[name].columns
    columns: dict[str, Any] = {key: [problem.columns.get(key) for problem in problems] for key in needed}
    columns |= {"answer": [problem.answer for problem in problems]}
    texts = conversational([suite.fmt.write(PROBE_REASONING, problem.answer) for problem in problems])
    values = suite.functions[name](prompts=texts, completions=texts, response_format=suite.fmt, **columns)
    if all(value is None for value in values):
        raise UserError(
            f"rewards.{name}={suite.weights[name]:g}: applies to none of the {len(problems):,} problems, which lack "
            f"the column {needed[0]}; give problems that have it, or use rewards.{name}=0"
        )
