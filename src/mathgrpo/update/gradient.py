"""The gradient of one optimizer step: micro-batches forward and backward, chunk by chunk of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.grpo.loss import clip_flags, clipped_policy_loss, importance_weights, k3_kl
from mathgrpo.hardware.failure import is_out_of_memory
from mathgrpo.types import RolloutGroup
from mathgrpo.update.attention.packed import AttentionKernel
from mathgrpo.update.forward import Forward
from mathgrpo.update.logprobs import chunk_rows, split_model, token_logprobs
from mathgrpo.update.pack import MicroBatch, Piece, build_micro_batch, micro_batch_cost, plan_micro_batches
from mathgrpo.update.reference_policy import Reference
from mathgrpo.update.release import release_memory
from mathgrpo.update.step_tokens import StepTokens


@dataclass(slots=True)
class Step:
    """All that the micro-batches of one update share.

    Attributes:
        tokens, pieces: what there is to compute.
        old_logprobs_M, ref_logprobs_M: fill in the update's first pass.
        forward, reference_forward: how policy and reference compute.
        attention: kernel of the modules' packed attention; None with the fused forward pass.
        old_known: old_logprobs_M is filled before the first pass.
    """

    policy: Any
    groups: Sequence[RolloutGroup]
    section: GrpoSection
    temperature: float
    reference: Reference | None
    tokens: StepTokens
    pieces: list[Piece]
    shared_prompt: bool
    token_budget: int
    old_logprobs_M: Tensor
    ref_logprobs_M: Tensor
    forward: Forward
    reference_forward: Forward | None
    attention: AttentionKernel | None = "sdpa"
    old_known: bool = False


def step_gradient(step: Step, optimizer: torch.optim.Optimizer, *, first: bool) -> tuple[Tensor, list[int]]:
    """Leave the gradient of the whole step in the parameters; return its totals and [micro-batches, tokens].

    Out of memory: the token budget is halved and the step begun again. Micro-batches do not change the gradient.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        failure = ""
        try:
            return _accumulate(step, first=first)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or step.token_budget <= 1:
                raise
            failure = first_line(error)
        # Outside the except block: the traceback held the failed pass's tensors until here.
        optimizer.zero_grad(set_to_none=True)
        _halve_budget(step, failure)
        release_memory()


def _halve_budget(step: Step, failure: str) -> None:
    """Halve the largest micro-batch; end the run clearly when it can no longer be made smaller."""
    plan = plan_micro_batches(step.groups, step.pieces, step.token_budget, shared_prompt=step.shared_prompt)
    if all(len(pieces) == 1 and len(pieces[0].completions) == 1 for pieces in plan):
        raise UserError(
            f"grpo.token_budget={step.token_budget}: out of memory with one completion at a time "
            f"({failure}); use a smaller model, LoRA, or a lower rollout.max_new_tokens"
        )
    # A budget far above what the step holds would take several halvings to change anything.
    costs = [micro_batch_cost(step.groups, pieces, shared_prompt=step.shared_prompt) for pieces in plan]
    step.token_budget = max(1, min(step.token_budget, max(costs)) // 2)


def _accumulate(step: Step, *, first: bool) -> tuple[Tensor, list[int]]:
    """Run forward and backward over all micro-batches; return (totals [10], [micro-batches, tokens])."""
    plan = plan_micro_batches(step.groups, step.pieces, step.token_budget, shared_prompt=step.shared_prompt)
    sums = torch.zeros(8, dtype=torch.float64, device=step.policy.device)
    largest = torch.zeros(2, dtype=torch.float64, device=step.policy.device)
    num_tokens = 0
    step.forward.refresh()
    for pieces in plan:
        batch = micro_batch_of(step, pieces, step.attention)
        batch_sums, batch_largest = _micro_batch_backward(step, batch, first=first)
        sums += batch_sums
        largest = torch.maximum(largest, batch_largest)
        num_tokens += batch.num_unique
    step.forward.finish()
    return torch.cat([sums, largest]), [len(plan), num_tokens]


def _micro_batch_backward(step: Step, batch: MicroBatch, *, first: bool) -> tuple[Tensor, Tensor]:
    """Run a micro-batch forward and backward; return its metric sums [8], and its largest sampling difference and
    importance weight [2].

    The loss is a sum over tokens, so each chunk of logits has its backward pass at once, down to the hidden states,
    and is gone before the next; the transformer's own backward pass follows when all of them have their gradient.
    """
    if first and step.reference is not None and step.reference_forward is not None:
        ref_logprobs_N = step.reference.ref_logprobs(step.reference_forward, batch, step.temperature)
        step.ref_logprobs_M.index_copy_(0, batch.token_index, ref_logprobs_N)
    with step.forward.context():
        hidden_NF = step.forward.hidden(batch)
    leaf_NF = hidden_NF.detach().requires_grad_()
    head, vocab_size = step.forward.head, split_model(step.policy.model)[0].config.get_text_config().vocab_size
    chunks = []
    for rows in chunk_rows(len(batch.token_index), vocab_size, leaf_NF.device):
        with step.forward.context():
            logits = head(leaf_NF[rows])
        logprobs_N, entropy_N = token_logprobs(logits, batch.targets[rows], step.temperature)
        del logits
        loss, sums, largest = _token_loss(step, batch.token_index[rows], logprobs_N, entropy_N, first=first)
        torch.autograd.backward(loss)
        chunks.append((sums, largest))
    torch.autograd.backward(hidden_NF, leaf_NF.grad)
    largest = torch.stack([largest for _, largest in chunks]).amax(dim=0)
    return torch.stack([sums for sums, _ in chunks]).sum(dim=0), largest


def _token_loss(
    step: Step, index: Tensor, logprobs_N: Tensor, entropy_N: Tensor, *, first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return these tokens' share of the loss, their metric sums [8] and largest [2], each in a fixed order."""
    section, tokens = step.section, step.tokens
    if first and not step.old_known:
        step.old_logprobs_M.index_copy_(0, index, logprobs_N.detach())
    advantages_N = tokens.advantages_M[index]
    ratio_N = torch.exp(logprobs_N - step.old_logprobs_M[index])
    losses_N = clipped_policy_loss(ratio_N, advantages_N, section.epsilon_low, section.epsilon_high)
    importance_N = torch.ones_like(ratio_N)
    if section.importance == "on":
        importance_N = importance_weights(
            step.old_logprobs_M[index], tokens.sampling_logprobs_M[index], section.importance_cap
        )
        losses_N = losses_N * importance_N
    kl_N = torch.zeros_like(losses_N)
    if section.beta > 0.0:
        kl_N = ratio_N * k3_kl(logprobs_N, step.ref_logprobs_M[index])
        losses_N = losses_N + section.beta * kl_N
    loss = (tokens.weights_M[index] * losses_N).sum()
    with torch.no_grad():
        low_N, high_N = clip_flags(ratio_N, advantages_N, section.epsilon_low, section.epsilon_high)
        difference_N = (logprobs_N - tokens.sampling_logprobs_M[index]).abs()
        capped_N = importance_N >= section.importance_cap
        columns = (
            loss, entropy_N.sum(), kl_N.sum(), low_N.sum(), high_N.sum(), difference_N.sum(),
            importance_N.sum(), capped_N.sum(),
        )  # fmt: skip
        sums = torch.stack([column.double() for column in columns])
        largest = torch.stack([difference_N.max(), importance_N.max()]).double()
    return loss, sums, largest


def micro_batch_of(step: Step, pieces: list[Piece], attention: AttentionKernel | None) -> MicroBatch:
    """Return the tensors of some pieces of a step, laid out for an attention kernel."""
    return build_micro_batch(
        step.groups, step.tokens, pieces,
        shared_prompt=step.shared_prompt, device=step.policy.device, attention=attention,
    )  # fmt: skip
