"""Rewards to advantages: how much better each completion is than its group."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mathgrpo.errors import UserError
from mathgrpo.types import RolloutGroup

# Shape legend: B groups, G completions of each.

AdvantageScale = Literal["group", "none", "batch"]
STD_FLOOR = 1e-4
"""Added to the standard deviation, as TRL does, so that a tiny spread does not become a huge advantage."""


def group_advantages(rewards_BG: Tensor, scale: AdvantageScale = "group") -> Tensor:
    """Return each completion's advantage: its reward minus its group's mean, in units of `scale`.

    "group" divides by the group's standard deviation, "batch" by that of all rewards of the step, "none" by nothing
    (Dr. GRPO). Both are sample deviations (n - 1), and STD_FLOOR is added. Equal rewards give exactly 0. A reward that
    is NaN is none, since no reward function applied: it gets 0 and counts in no mean and no deviation.

    Shapes: rewards_BG [B, G] -> [B, G], float32.
    Source: DeepSeekMath eq. 3 (group), arXiv 2503.20783 (none); TRL 1.16 `GRPOTrainer._generate_and_score_completions`.
    Departs: TRL rounds the mean of equal rewards, so 0.1 three times gives it about 1e-8 instead of 0.

    Example:
        >>> group_advantages(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), "none").tolist()
        [[0.5, -0.5], [0.0, 0.0]]
    """
    rewards = rewards_BG.double()
    none_BG = rewards.isnan()
    most_B1 = rewards.masked_fill(none_BG, -torch.inf).amax(dim=1, keepdim=True)
    least_B1 = rewards.masked_fill(none_BG, torch.inf).amin(dim=1, keepdim=True)
    centred = (rewards - rewards.nanmean(dim=1, keepdim=True)).masked_fill(none_BG | (most_B1 == least_B1), 0.0)
    if scale == "group":
        centred = centred / (_sample_std(rewards, dim=1) + STD_FLOOR)
    elif scale == "batch":
        centred = centred / (_sample_std(rewards.flatten(), dim=0) + STD_FLOOR)
    return centred.float()


def with_advantages(groups: Sequence[RolloutGroup], scale: AdvantageScale) -> list[RolloutGroup]:
    """Return the groups with their advantages filled in from their rewards.

    Raises: UserError when groups differ in size or a reward is missing or infinite.
    """
    if not groups:
        return []
    sizes = {len(group.rewards) for group in groups}
    if len(sizes) != 1 or sizes != {len(group.completions) for group in groups}:
        raise UserError(f"groups with {sorted(sizes)} rewards: every completion of every group needs one reward")
    rewards_BG = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
    if torch.isinf(rewards_BG).any():
        raise UserError("rewards: a total reward is infinite; use smaller weights or rewards")
    advantages = group_advantages(rewards_BG, scale).tolist()
    return [dataclasses.replace(group, advantages=tuple(row)) for group, row in zip(groups, advantages, strict=True)]


def _sample_std(values: Tensor, dim: int) -> Tensor:
    """Return the sample deviation of what is not NaN along `dim`, kept as an axis of size 1; 0 for a single value."""
    squares = (values - values.nanmean(dim=dim, keepdim=True)).square().nansum(dim=dim, keepdim=True)
    count = (~values.isnan()).sum(dim=dim, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()
