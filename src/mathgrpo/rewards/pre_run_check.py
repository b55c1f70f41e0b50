"""Rewards tried before a run starts: a fault in one is told then, not after the first rollout."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from mathgrpo.answers.gold_check import PROBE_REASONING
from mathgrpo.errors import UserError, first_line, named
from mathgrpo.formats.chat import problem_messages
from mathgrpo.rewards.audit import audit
from mathgrpo.rewards.checked_calls import RewardFunction
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.reward import Reward, rows_of
from mathgrpo.rewards.suite import RewardSuite
from mathgrpo.types import Problem

AUDITED_PROBLEMS = 4
"""Problems that a run's own audit tries; one where users' functions are called, which may be slow or cost money."""


def checked_rewards(
    suite: RewardSuite,
    problems: Sequence[Problem],
    token_ids: Callable[[str], Sequence[int]] | None = None,
    opened: str = "",
) -> str:
    """Return in a line how the rewards stand up to an audit, in which users' functions are called once.

    opened: what the prompts have begun of a completion, see `Prompt`.

    Raises: UserError for what `try_rewards` refuses; what fails in the audit alone is said in the line.
    """
    require_applicable(suite, problems)
    wanted = 1 if _users(suite) else AUDITED_PROBLEMS
    tried = problems[:: max(1, len(problems) // wanted)][:wanted]
    names = dict.fromkeys(name for problem in problems for name in problem.columns)
    tried = [replace(each, columns={name: each.columns.get(name) for name in names}) for each in tried]
    try:
        return audit(suite, tried, token_ids, opened=opened).line()
    except UserError as error:
        try_rewards(suite, problems, token_ids)
        return f"rewards not audited: {first_line(error)}"


def _users(suite: RewardSuite) -> dict[str, RewardFunction]:
    return {name: function for name, function in suite.rewards.items() if not isinstance(function, Reward)}


def require_applicable(suite: RewardSuite, problems: Sequence[Problem]) -> None:
    """Raise UserError unless every weighted built-in reward applies to some problem."""
    for name, reward in suite.rewards.items():
        if isinstance(reward, Reward) and reward.columns and suite.weights[name]:
            _require_applies(suite, name, reward, problems)


def try_rewards(
    suite: RewardSuite, problems: Sequence[Problem], token_ids: Callable[[str], Sequence[int]] | None = None
) -> None:
    """Return when the user's own functions can score, and every weighted reward applies to some problem.

    The functions are called once, with two completions of the first problem: its gold answer in the format, and no text
    at all, which a model may write too.

    Raises:
        UserError: a function raises or returns anything but numbers, or a reward needs columns that no problem has.
    """
    require_applicable(suite, problems)
    own = _users(suite)
    if own and problems:
        _try(replace(suite, rewards=own, correct=None), problems, token_ids)


def failing(suite: RewardSuite, problems: Sequence[Problem]) -> dict[str, str]:
    """Return the user's own functions that cannot score these problems, with the reasons; see `try_rewards`."""
    faults: dict[str, str] = {}
    for name, function in _users(suite).items() if problems else ():
        try:
            _try(replace(suite, rewards={name: function}, correct=None), problems)
        except UserError as error:
            faults[name] = str(error)
    return faults


def _try(
    suite: RewardSuite, problems: Sequence[Problem], token_ids: Callable[[str], Sequence[int]] | None = None
) -> None:
    """Raise UserError when the user's functions cannot score the first problem."""
    first = problems[0]
    texts = [suite.fmt.write(PROBE_REASONING, first.answer), ""]
    columns = {name: [first.columns.get(name)] * 2 for problem in problems for name in problem.columns}
    columns |= {"answer": [first.answer] * 2, "question": [first.question] * 2}
    ids = None if token_ids is None else [list(token_ids(text)) for text in texts]
    try:
        suite.score([problem_messages(first, suite.fmt)] * 2, texts, columns, completion_ids=ids)
    except UserError as error:
        raise UserError(f"{error} (tried on a right answer and on no text, before step 0)") from error


def _require_applies(suite: RewardSuite, name: str, reward: Reward, problems: Sequence[Problem]) -> None:
    """Raise UserError when a built-in reward applies to no problem, for want of a column."""
    if problems and not applies_to(suite, reward, problems):
        raise UserError(
            f"rewards.{name}={suite.weights[name]:g}: applies to none of the {len(problems):,} problems, which lack "
            f"the column {reward.columns[0]}; {_other_column(reward.columns[0], problems)}give problems that have it, "
            f"or use rewards.{name}=0"
        )


def _other_column(wanted: str, problems: Sequence[Problem]) -> str:
    """Return what to write where the problems have a column that looks like the one wanted under another name."""
    like = re.compile(rf"{re.escape(wanted[:3])}|{re.escape(wanted.rstrip('s'))}", re.IGNORECASE)
    kinds = list | tuple | str if wanted.endswith("s") else int | float | str
    columns = problems[0].columns
    found = next((name for name, value in columns.items() if like.match(name) and isinstance(value, kinds)), "")
    return f"write --set {shlex.quote(f'problems.columns.{wanted}={found}')}, " if found else ""


def applies_to(suite: RewardSuite, reward: Reward, problems: Sequence[Problem]) -> int:
    """Return to how many problems a built-in reward that needs columns applies."""
    columns = {key: [problem.columns.get(key) for problem in problems] for key in reward.columns}
    columns["answer"] = [problem.answer for problem in problems]
    rows = rows_of([suite.fmt.write(PROBE_REASONING, problem.answer) for problem in problems], suite.fmt, columns)
    return sum(reward.value(row) is not None for row in rows)


def require_judged(suite: RewardSuite, problems: Sequence[Problem]) -> str:
    """Return a note where what verdicts go by does not fit all problems to evaluate on, else "".

    Raises:
        UserError: it applies to none.
    """
    if suite.correct is None and problems:
        return _judge_passed_over(suite, problems[0])
    reward = suite.rewards[suite.correct.reward] if suite.correct is not None else None
    if not isinstance(reward, Reward) or not reward.columns or not problems:
        return ""
    number, lacks = applies_to(suite, reward, problems), f"lack the column {reward.columns[0]}"
    if not number:
        setting = named("evaluation.correct")
        raise UserError(
            f'{setting}="{suite.correct}": applies to none of the {len(problems):,} held-out problems, which {lacks}; '
            f'{_other_column(reward.columns[0], problems)}give problems that have it, or use {setting}="answer"'
        )
    left, out_of = len(problems) - number, f"{len(problems):,} held-out problems"
    return f"{left:,} of {out_of} {lacks}: there correct means a right answer" if left else ""


def _judge_passed_over(suite: RewardSuite, problem: Problem) -> str:
    """Return a note where a problem has the column of a task that the suite does not know, else ""."""
    for name, reward in CATALOGUE.items():
        column = reward.columns[0] if reward.columns else None
        if column in problem.columns and name not in suite.weights:
            return f"the problems have {column}, by which the reward {name} judges; here correct means a right answer"
    return ""


def grades_golds(suite: RewardSuite) -> bool:
    """Return whether verdicts, or a paid built-in reward, go by the gold answers: then each must be gradable."""
    paid = [reward for name, reward in suite.rewards.items() if suite.weights[name] and isinstance(reward, Reward)]
    grading = (each for each in paid if each.pays_right or each.family == "steps" or not each.sound)
    return suite.correct is None or any(not reward.columns for reward in grading)
