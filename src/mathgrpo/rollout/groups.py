"""From problems to rewarded groups of completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mathgrpo.formats import Format
from mathgrpo.formats.chat import encode_prompt, problem_messages
from mathgrpo.models import Policy
from mathgrpo.rewards import RewardSuite
from mathgrpo.rewards.suite import Scores, columns_of
from mathgrpo.rollout.engine import Engine
from mathgrpo.types import Completion, Problem, RolloutGroup, Sampling


def sample_groups(
    engine: Engine, policy: Policy, problems: Sequence[Problem], fmt: Format, group_size: int, sampling: Sampling
) -> list[RolloutGroup]:
    """Return one group of completions for each problem, not rewarded yet."""
    prompts = [encode_prompt(policy.tokenizer, problem, fmt) for problem in problems]
    drawn = engine.generate(prompts, group_size, sampling)
    return [
        RolloutGroup(
            problem=problem,
            prompt=prompt,
            completions=tuple(completions),
            texts=tuple(completion_text(policy, completion) for completion in completions),
        )
        for problem, prompt, completions in zip(problems, prompts, drawn, strict=True)
    ]


def reward_groups(groups: Sequence[RolloutGroup], fmt: Format, suite: RewardSuite) -> list[RolloutGroup]:
    """Return the groups with rewards, their parts and grades: each completion graded once, the suite called once."""
    asked = [(group.problem, text) for group in groups for text in group.texts]
    prompts = [problem_messages(problem, fmt) for problem, _ in asked]
    ids = [list(completion.ids) for group in groups for completion in group.completions]
    texts = [text for _, text in asked]
    opened = [group.prompt.opened for group in groups for _ in group.texts]
    scores = suite.score(prompts, texts, reward_columns(groups), completion_ids=ids, opened=opened)
    return with_scores(groups, scores)


def with_scores(groups: Sequence[RolloutGroup], scores: Scores) -> list[RolloutGroup]:
    """Return the groups with what their completions earned, scored in the groups' order."""
    rewarded, start = [], 0
    for group in groups:
        rows = slice(start, start + len(group.texts))
        parts = {name: values[rows] for name, values in scores.parts.items()}
        own = replace(group, rewards=scores.totals[rows], reward_parts=parts, grades=scores.grades[rows])
        rewarded.append(own)
        start = rows.stop
    return rewarded


def reward_columns(groups: Sequence[RolloutGroup]) -> dict[str, list[Any]]:
    """Return what reward functions receive by name, one value a completion, see `columns_of`."""
    return columns_of([group.problem for group in groups for _ in group.texts])


def completion_text(policy: Policy, completion: Completion) -> str:
    """Return a completion's text without its end token."""
    ids = list(completion.ids)
    if ids and ids[-1] in policy.eos_ids:
        ids.pop()
    return policy.decode(ids)
