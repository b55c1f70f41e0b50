"""Rewards to advantages: how much better each completion is than its group."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from mathgrpo.errors import UserError
from mathgrpo.types import RolloutGroup

if TYPE_CHECKING:
    from torch import Tensor

# Shape legend: K rewards, B groups, G completions of each.

AdvantageScale = Literal["group", "none", "batch", "decoupled"]
STD_FLOOR = 1e-4
"""Added to the standard deviation, as TRL does, so that a tiny spread does not become a huge advantage."""


def group_advantages(rewards_BG: Tensor, scale: Literal["group", "none", "batch"] = "group") -> Tensor:
    """Return each completion's advantage: its reward minus its group's mean, in units of `scale`.

    "group" divides by the group's standard deviation, "batch" by that of all rewards of the step, "none" by nothing
    (Dr. GRPO). Both are sample deviations (n - 1), and STD_FLOOR is added. Equal rewards give exactly 0. A reward that
    is NaN is none, since no reward function applied: it gets 0 and counts in no mean and no deviation.

    Shapes: rewards_BG [B, G] -> [B, G], float32.
    Source: DeepSeekMath eq. 3 (group), arXiv 2503.20783 (none); TRL 1.16 `GRPOTrainer._generate_and_score_completions`.
    Departs: TRL rounds the mean of equal rewards, so 0.1 three times gives it about 1e-8 instead of 0.

    Example:
        >>> import torch
        >>> group_advantages(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), "none").tolist()
        [[0.5, -0.5], [0.0, 0.0]]
    """
    rewards = rewards_BG.double()
    none_BG = rewards.isnan()
    most_B1 = rewards.masked_fill(none_BG, -math.inf).amax(dim=1, keepdim=True)
    least_B1 = rewards.masked_fill(none_BG, math.inf).amin(dim=1, keepdim=True)
    centred = (rewards - rewards.nanmean(dim=1, keepdim=True)).masked_fill(none_BG | (most_B1 == least_B1), 0.0)
    if scale == "group":
        centred = centred / (_sample_std(rewards, dim=1) + STD_FLOOR)
    elif scale == "batch":
        centred = centred / (_sample_std(rewards.flatten(), dim=0) + STD_FLOOR)
    return centred.float()


def decoupled_advantages(parts_KBG: Tensor, weights: Sequence[float]) -> Tensor:
    """Return advantages from rewards that are each normalised in their group, then summed by weight and normalised.

    So a reward whose values are close together counts as much as one whose values are far apart. A part that is NaN
    did not apply and adds nothing; a completion to which none applied gets 0 and counts in no mean.

    Shapes: parts_KBG [K, B, G], weights K numbers -> [B, G], float32.
    Source: GDPO, arXiv 2601.05242; TRL 1.16, multi_objective_aggregation="normalize_then_sum".

    Example:
        >>> import torch
        >>> advantages = decoupled_advantages(torch.tensor([[[1.0, 0.0]], [[0.0, 0.1]]]), [1.0, 0.5])
        >>> [round(value, 2) for value in advantages[0].tolist()]
        [0.71, -0.71]
    """
    parts = [weight * group_advantages(part_BG).double() for part_BG, weight in zip(parts_KBG, weights, strict=True)]
    total_BG = sum(parts[1:], parts[0]).masked_fill(parts_KBG.isnan().all(dim=0), math.nan)
    return group_advantages(total_BG.view(1, -1)).view_as(total_BG)


def with_advantages(
    groups: Sequence[RolloutGroup], scale: AdvantageScale, weights: Mapping[str, float] | None = None
) -> list[RolloutGroup]:
    """Return the groups with their advantages filled in from their rewards.

    weights: of each reward by name, for "decoupled".
    Raises: UserError when groups differ in size or a reward is missing or infinite.
    """
    import torch

    if not groups:
        return []
    sizes = {len(group.rewards) for group in groups}
    if len(sizes) != 1 or sizes != {len(group.completions) for group in groups}:
        raise UserError(f"groups with {sorted(sizes)} rewards: every completion of every group needs one reward")
    rewards_BG = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
    if torch.isinf(rewards_BG).any():
        raise UserError("rewards: a total reward is infinite; use smaller weights or rewards")
    if scale == "decoupled":
        paid = dict(weights or {})
        parts_KBG = [[[math.nan if v is None else v for v in g.reward_parts[name]] for g in groups] for name in paid]
        parts = torch.tensor(parts_KBG, dtype=torch.float64)
        advantages_BG = decoupled_advantages(parts, list(paid.values()))
    else:
        advantages_BG = group_advantages(rewards_BG, scale)
    rows = zip(groups, advantages_BG.tolist(), strict=True)
    return [dataclasses.replace(group, advantages=tuple(row)) for group, row in rows]


def _sample_std(values: Tensor, dim: int) -> Tensor:
    """Return the sample deviation of what is not NaN along `dim`, kept as an axis of size 1; 0 for a single value."""
    squares = (values - values.nanmean(dim=dim, keepdim=True)).square().nansum(dim=dim, keepdim=True)
    count = (~values.isnan()).sum(dim=dim, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()
