"""From sampled completions to rewarded groups with advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mathgrpo.grpo.advantages import with_advantages
from mathgrpo.trl_api.dataset import Row, columns_of, is_conversational
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.trl_api.reward_functions import RewardFunctions, RewardNotes
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup


@dataclass(frozen=True, slots=True)
class Scored:
    """A rollout with its rewards.

    Attributes:
        groups: one a prompt, with rewards (NaN where no function applies), their parts and advantages.
        prompts, completions: as reward functions got them, one a completion.
        notes: what the reward functions noted.
    """

    groups: tuple[RolloutGroup, ...]
    prompts: list[Any]
    completions: list[Any]
    notes: RewardNotes


def score(
    tokenizer: Any,
    rows: Sequence[Row],
    prompts: Sequence[Prompt],
    drawn: Sequence[Sequence[Completion]],
    rewards: RewardFunctions,
    args: GRPOConfig,
    state: Any,
) -> Scored:
    """Return the rewarded groups of one rollout.

    Texts are decoded without special tokens, and reward functions get prompts, completions (messages for prompts that
    are messages, else text), completion_ids, the dataset's columns, trainer_state, log_extra and log_metric: as TRL.
    rows, prompts, drawn: one a prompt; drawn[i] are the completions of prompts[i].
    Raises: UserError when a reward function fails.
    """
    texts = [
        tuple(str(tokenizer.decode(list(completion.ids), skip_special_tokens=True)) for completion in group)
        for group in drawn
    ]
    flat_rows = [row for row, group in zip(rows, drawn, strict=True) for _ in group]
    flat_texts = [text for group in texts for text in group]
    notes = RewardNotes()
    keywords = columns_of(flat_rows, args) | {
        "completion_ids": [list(completion.ids) for group in drawn for completion in group],
        "trainer_state": state, "log_extra": notes.log_extra, "log_metric": notes.log_metric,
    }  # fmt: skip
    given = [row["prompt"] for row in flat_rows]
    completions: list[Any] = [
        [{"role": "assistant", "content": text}] if is_conversational(prompt) else text
        for prompt, text in zip(given, flat_texts, strict=True)
    ]
    parts = rewards.parts(given, completions, flat_texts, keywords)
    totals = rewards.totals(parts)
    groups, start = [], 0
    for row, prompt, group, group_texts in zip(rows, prompts, drawn, texts, strict=True):
        rows_of_group = slice(start, start + len(group))
        groups.append(
            RolloutGroup(
                problem=Problem(question=str(row["prompt"]), answer=str(row.get("answer", ""))),
                prompt=prompt,
                completions=tuple(group),
                texts=group_texts,
                rewards=tuple(totals[rows_of_group]),
                reward_parts={name: values[rows_of_group] for name, values in parts.items()},
            )
        )
        start = rows_of_group.stop
    per_generation = args.prompts_per_generation
    scale: Any = "decoupled" if args.multi_objective_aggregation == "normalize_then_sum" else args.scale_rewards
    scored = [
        group
        for first in range(0, len(groups), per_generation)
        for group in with_advantages(
            groups[first : first + per_generation], scale, dict(zip(parts, rewards.weights, strict=True))
        )
    ]
    return Scored(tuple(scored), given, completions, notes)


def joined(parts: Sequence[Scored]) -> Scored:
    """Return several rollouts as one."""
    notes = RewardNotes()
    for part in parts:
        for name, values in part.notes.metrics.items():
            notes.metrics.setdefault(name, []).extend(values)
        for name, column in part.notes.columns.items():
            notes.columns.setdefault(name, []).extend(column)
    return Scored(
        tuple(group for part in parts for group in part.groups),
        [prompt for part in parts for prompt in part.prompts],
        [completion for part in parts for completion in part.completions],
        notes,
    )
