"""One update's completion tokens, and what the loss makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from mathgrpo.grpo.loss import Objective, Tokens, completion_weights
from mathgrpo.hardware.cuda_care import uploaded
from mathgrpo.types import RolloutGroup
from mathgrpo.update.forward import Passes
from mathgrpo.update.pack import MicroBatch, Piece, build_micro_batch, plan_micro_batches

# Shape legend: R completions, M completion tokens of the step, N of some of them.

Totals = dict[str, Tensor]
"""Name -> a float64 number on the device, still without a wait for it."""


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Every completion token of a step, in one flat order (group by group).

    Attributes:
        offsets: offsets[b][g] is where completion g of group b begins.
        weights_M: loss weight, normaliser included; 0 on masked completions.
        advantages_M, sampling_M: one value a token.
        old_M, ref_M: log-probabilities, filled in by the update's first pass.
        num_kept, num_kept_completions: tokens and completions that are not masked.
    """

    offsets: tuple[tuple[int, ...], ...]
    weights_M: Tensor
    advantages_M: Tensor
    sampling_M: Tensor
    old_M: Tensor
    ref_M: Tensor
    num_kept: int
    num_kept_completions: int


def step_tokens(
    groups: Sequence[RolloutGroup], objective: Objective, mask_truncated: bool, max_new_tokens: int, num_parts: int = 1
) -> StepTokens:
    """Return the flat token arrays of a step; the loss normaliser is counted here, once.

    num_parts: optimizer steps that the completions are divided among. Each counts as much as all of them would.
    """
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.ids) for completion in completions]
    kept = [not (mask_truncated and completion.finish_reason == "length") for completion in completions]
    lengths_R = torch.tensor(lengths)
    weights_R = completion_weights(objective.normaliser, lengths_R, torch.tensor(kept), max_new_tokens)
    advantages_R = torch.tensor([value for group in groups for value in group.advantages], dtype=torch.float32)
    logprobs = [value for completion in completions for value in completion.logprobs]
    starts = accumulate(lengths, initial=0)
    return StepTokens(
        offsets=tuple(tuple(next(starts) for _ in group.completions) for group in groups),
        weights_M=weights_R.repeat_interleave(lengths_R) * num_parts,
        advantages_M=advantages_R.repeat_interleave(lengths_R),
        sampling_M=torch.tensor(logprobs, dtype=torch.float32),
        old_M=torch.zeros(sum(lengths)),
        ref_M=torch.zeros(sum(lengths)),
        num_kept=sum(length for length, keep in zip(lengths, kept, strict=True) if keep),
        num_kept_completions=sum(kept),
    )


@dataclass(slots=True)
class Step:
    """All that the micro-batches of one update share.

    Attributes:
        tokens: what the loss needs to know of the completions.
        pieces: what this process computes in the optimizer step under way.
        entropy_weight: what the entropy bonus adds for every token, its normaliser included.
        old_known: tokens.old_M is filled before the first pass.
        is_fresh: the forward pass has taken over the weights as they are now.
    """

    passes: Passes
    groups: Sequence[RolloutGroup]
    objective: Objective
    temperature: float
    tokens: StepTokens
    pieces: list[Piece]
    entropy_weight: float
    token_budget: int
    old_known: bool = False
    is_fresh: bool = False

    def plan(self) -> list[list[Piece]]:
        """Return the pieces in micro-batches, as the token budget is now."""
        shared = self.passes.shared_prompt
        return plan_micro_batches(self.groups, self.pieces, self.token_budget, shared_prompt=shared)

    def micro_batch(self, pieces: Sequence[Piece]) -> MicroBatch:
        """Return the tensors of some pieces on the device, laid out for the attention kernel."""
        passes = self.passes
        batch = build_micro_batch(
            self.groups, self.tokens.offsets, pieces, shared_prompt=passes.shared_prompt,
            attention=passes.attention, context=passes.context,
        )  # fmt: skip
        if passes.device != "cpu":
            batch = uploaded(batch, passes.device)
        return batch

    def loss(
        self, index: Tensor, logprobs_N: Tensor, entropy_N: Tensor, *, lengths: tuple[int, ...] = (), first: bool
    ) -> tuple[Tensor, Totals]:
        """Return these tokens' share of the loss, without the entropy bonus, and their totals, which have it.

        index: [N] positions of the tokens in the flat order. lengths: of whole completions, () for a chunk.
        first: this is the update's first pass, which knows the old log-probabilities.
        """
        tokens = self.tokens
        if first and not self.old_known:
            tokens.old_M.index_copy_(0, index, logprobs_N.detach())
        sampling_N = tokens.sampling_M[index]
        old_N, ref_N, advantages_N = tokens.old_M[index], tokens.ref_M[index], tokens.advantages_M[index]
        losses_N, named = self.objective.losses(Tokens(logprobs_N, old_N, ref_N, sampling_N, advantages_N, lengths))
        loss = (tokens.weights_M[index] * losses_N).sum()
        with torch.no_grad():
            difference_N = (logprobs_N - sampling_N).abs()
            named |= {f"sampling/logprob_difference/{what}": difference_N for what in ("mean", "max")}
            totals = {name: self._total(name, values_N, lengths) for name, values_N in named.items()}
            totals |= {"loss": loss.double(), "entropy": total("entropy", entropy_N)}
            if self.entropy_weight:
                totals["loss"] = totals["loss"] - self.entropy_weight * totals["entropy"]
        return loss, totals

    def _total(self, name: str, values_N: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the total of a metric, in which a completion counts once if it has one value for all its tokens."""
        if self.objective.counts_completions(name):
            values_N = torch.stack([part[0] for part in values_N.split(list(lengths))])
        return total(name, values_N)


def total(name: str, values: Tensor) -> Tensor:
    """Return one number for many: their largest, their smallest, or their sum.

    Example:
        >>> total("importance/max", torch.tensor([1.0, 2.0])).item(), total("kl", torch.tensor([1.0, 2.0])).item()
        (2.0, 3.0)
    """
    if name.endswith("/max"):
        return values.max().double()
    return values.min().double() if name.endswith("/min") else values.sum().double()


def merged(found: Sequence[Mapping[str, Tensor]]) -> Totals:
    """Return the totals of parts as those of the whole; a part may lack names, when it computed nothing."""
    names = dict.fromkeys(name for totals in found for name in totals)
    return {name: total(name, torch.stack([part[name] for part in found if name in part])) for name in names}
