"""What the loss needs to know about a step's completion tokens, counted once for all micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo.importance import Importance
from mathgrpo.grpo.normalisers import completion_weights
from mathgrpo.grpo.objectives import OBJECTIVES, Objective, choose_objective
from mathgrpo.hardware.cuda_care import upload
from mathgrpo.types import RolloutGroup

# Shape legend: R completions, M completion tokens of the step.


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Every completion token of a step, in one flat order (group by group).

    Attributes:
        offsets: offsets[b][g] is where completion g of group b begins.
        advantages_M, sampling_logprobs_M: one value a token.
        weights_M: loss weight, normaliser included; 0 on masked completions.
        num_tokens: M.
        num_kept, num_kept_completions: tokens and completions that are not masked.
    """

    offsets: tuple[tuple[int, ...], ...]
    advantages_M: Tensor
    weights_M: Tensor
    sampling_logprobs_M: Tensor
    num_tokens: int
    num_kept: int
    num_kept_completions: int


def objective_of(section: GrpoSection, importance: Importance | None = None) -> Objective:
    """Return the objective of a recipe's settings.

    importance: weights for a sampler with other numerics.
    Raises: UserError for a loss or settings of it that do not exist.
    """
    return choose_objective(section.loss, section.loss_settings, beta=section.beta, importance=importance)


def step_tokens(
    groups: Sequence[RolloutGroup], section: GrpoSection, max_new_tokens: int, device: torch.device | str
) -> StepTokens:
    """Return the flat token arrays of a step; the loss normaliser is counted here, once."""
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.ids) for completion in completions]
    kept = [not (section.mask_truncated and completion.finish_reason == "length") for completion in completions]
    lengths_R = torch.tensor(lengths)
    normaliser = OBJECTIVES[section.loss].normaliser
    weights_R = completion_weights(normaliser, lengths_R, torch.tensor(kept), max_new_tokens)
    advantages_R = torch.tensor([value for group in groups for value in group.advantages], dtype=torch.float32)
    logprobs = [value for completion in completions for value in completion.logprobs]
    starts = accumulate(lengths, initial=0)
    return StepTokens(
        offsets=tuple(tuple(next(starts) for _ in group.completions) for group in groups),
        advantages_M=upload(advantages_R.repeat_interleave(lengths_R), device),
        weights_M=upload(weights_R.repeat_interleave(lengths_R), device),
        sampling_logprobs_M=upload(torch.tensor(logprobs, dtype=torch.float32), device),
        num_tokens=sum(lengths),
        num_kept=sum(length for length, keep in zip(lengths, kept, strict=True) if keep),
        num_kept_completions=sum(kept),
    )
