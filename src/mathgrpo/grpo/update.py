"""One policy update: micro-batches, loss, gradient, clipping, optimizer step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.errors import UserError
from mathgrpo.grpo.attention import AttentionKernel, PackedLayout, packed_attention
from mathgrpo.grpo.attention_choice import choose_attention
from mathgrpo.grpo.forward import Forward, ModuleForward, choose_forward
from mathgrpo.grpo.fused_forward import FusedForward
from mathgrpo.grpo.logprobs import chunk_rows, split_model, token_logprobs
from mathgrpo.grpo.loss import clip_flags, clipped_policy_loss, k3_kl
from mathgrpo.grpo.memory import is_out_of_memory, release_memory
from mathgrpo.grpo.modes import update_mode
from mathgrpo.grpo.movement import moved_fraction, weight_sample
from mathgrpo.grpo.pack import (
    MicroBatch,
    Piece,
    StepTokens,
    build_micro_batch,
    micro_batch_cost,
    pieces_with_loss,
    plan_micro_batches,
    step_tokens,
)
from mathgrpo.grpo.reference import Reference
from mathgrpo.grpo.serving import unshared_reason
from mathgrpo.types import RolloutGroup


DEFAULT_TOKEN_BUDGET = 8192


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not a finite number, found before the optimizer step, so the weights are unharmed."""


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What an update did.

    Attributes:
        metrics: loss, grad_norm, entropy, kl (with beta > 0), clip_ratio/low and /high,
            sampling/logprob_difference/mean and /max, weights_moved. Means over the update's optimizer steps; a metric
            of which no token was computed is absent. entropy, kl and the sampling difference are means over the
            completion tokens computed, clip ratios over all that are not masked.
        tokens: input tokens computed in one optimizer step, padding not counted.
        completion_tokens: completion tokens of the step, skipped ones included.
        micro_batches: of one optimizer step.
        skipped_groups: groups of which nothing had to be computed.
        token_budget: what was used in the end; lower than asked for after running out of memory.
        layout: "shared", or "plain" with one row a completion.
        notes: what a user should know, such as why prompts were not shared.
    """

    metrics: dict[str, float]
    tokens: int
    completion_tokens: int
    micro_batches: int
    skipped_groups: int
    token_budget: int
    layout: str
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Step:
    """All that the micro-batches of one update share; old_logprobs_M and ref_logprobs_M fill in its first pass."""

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


def policy_update(
    policy: Any,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[RolloutGroup],
    section: GrpoSection,
    *,
    temperature: float,
    max_new_tokens: int,
    max_grad_norm: float,
    reference: Reference | None = None,
    token_budget: int | None = None,
) -> UpdateStats:
    """Take section.updates_per_rollout optimizer steps on the groups, and return what happened.

    The old log-probs of the ratio are those of the first of these steps, when the policy is still the one that
    sampled; with one step they are token_logprobs themselves without gradient, and no extra pass is made. The
    difference to the engine's own sampling log-probs is logged. Learning rates are the caller's to set beforehand.

    policy: its model, device and autocast() are used. The model is in evaluation mode here, except adapter dropout.
    token_budget: overrides section.token_budget; hand on stats.token_budget to remember a halving. With neither, it is
        DEFAULT_TOKEN_BUDGET.
    Raises: NonFiniteError before the weights change; UserError for groups without advantages or beta without reference.
    """
    _check(groups, section, reference)
    reason = unshared_reason(policy.model) if section.shared_prompt else "grpo.shared_prompt=false"
    tokens = step_tokens(groups, section, max_new_tokens, policy.device)
    step = _Step(
        policy, groups, section, temperature, reference, tokens, pieces_with_loss(groups, section), not reason,
        token_budget or section.token_budget or DEFAULT_TOKEN_BUDGET, torch.zeros_like(tokens.weights_M), torch.zeros_like(tokens.weights_M),
        choose_forward(policy, section, shared_prompt=not reason), None,
    )  # fmt: skip
    step.reference_forward = _forward_of_reference(step)
    notes = _choose_attention(step)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = weight_sample(parameters)
    history: list[dict[str, float]] = []
    micro_batches: list[int] = [0, 0]
    with update_mode(policy.model), _attention_of(step):
        for index in range(section.updates_per_rollout):
            totals, micro_batches = _gradient(step, optimizer, first=index == 0)
            norm = _fill_and_norm(parameters)
            metrics = _metrics(step, totals, norm, first=index == 0)
            _require_finite(metrics, optimizer, index)
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.append(metrics)
    metrics = _mean_metrics(history) | {"weights_moved": moved_fraction(before, weight_sample(parameters))}
    notes += (f"prompts are computed once per completion in the update: {reason}",) if reason else ()
    return UpdateStats(
        metrics=metrics,
        tokens=micro_batches[1],
        completion_tokens=tokens.num_tokens,
        micro_batches=micro_batches[0],
        skipped_groups=len(groups) - len({piece.group for piece in step.pieces}),
        token_budget=step.token_budget,
        layout="plain" if reason else "shared",
        notes=notes,
    )


def _choose_attention(step: _Step) -> tuple[str, ...]:
    """Choose the attention kernel by the step's largest micro-batch; return what the run should know about it."""
    if not isinstance(step.forward, ModuleForward):
        step.attention = None
    if step.attention is None or not step.shared_prompt or not step.pieces:
        return ()
    pieces = plan_micro_batches(step.groups, step.pieces, step.token_budget, shared_prompt=True)[0]

    def layout_of(kernel: AttentionKernel) -> tuple[PackedLayout, int]:
        batch = _micro_batch(step, pieces, kernel)
        assert batch.layout is not None
        return batch.layout, batch.num_unique

    choice = choose_attention(step.policy, step.section, layout_of)
    step.attention = choice.kernel
    return (choice.reason,) if choice.reason else ()


def _forward_of_reference(step: _Step) -> Forward | None:
    """Return the reference's forward pass, of the same kind as the policy's."""
    if step.reference is None:
        return None
    if step.reference.adapter_off or isinstance(step.forward, ModuleForward):
        return ModuleForward(step.reference.model, step.policy.autocast)
    return FusedForward.of(step.reference.model, step.policy.compute_dtype)


def _micro_batch(step: _Step, pieces: list[Piece], attention: AttentionKernel | None) -> MicroBatch:
    return build_micro_batch(
        step.groups, step.tokens, pieces,
        shared_prompt=step.shared_prompt, device=step.policy.device, attention=attention,
    )  # fmt: skip


def _gradient(step: _Step, optimizer: torch.optim.Optimizer, *, first: bool) -> tuple[Tensor, list[int]]:
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
            failure = str(error)
        # Outside the except block: the traceback held the failed pass's tensors until here.
        optimizer.zero_grad(set_to_none=True)
        _halve_budget(step, failure)
        release_memory()


def _halve_budget(step: _Step, failure: str) -> None:
    """Halve the largest micro-batch; end the run clearly when it can no longer be made smaller."""
    plan = plan_micro_batches(step.groups, step.pieces, step.token_budget, shared_prompt=step.shared_prompt)
    if all(len(pieces) == 1 and len(pieces[0].completions) == 1 for pieces in plan):
        raise UserError(
            f"grpo.token_budget={step.token_budget}: out of memory with one completion at a time "
            f"({failure.splitlines()[0]}); use a smaller model, LoRA, or a lower rollout.max_new_tokens"
        )
    # A budget far above what the step holds would take several halvings to change anything.
    costs = [micro_batch_cost(step.groups, pieces, shared_prompt=step.shared_prompt) for pieces in plan]
    step.token_budget = max(1, min(step.token_budget, max(costs)) // 2)


def _accumulate(step: _Step, *, first: bool) -> tuple[Tensor, list[int]]:
    """Run forward and backward over all micro-batches; return (totals [6], [micro-batches, tokens])."""
    plan = plan_micro_batches(step.groups, step.pieces, step.token_budget, shared_prompt=step.shared_prompt)
    sums = torch.zeros(6, dtype=torch.float64, device=step.policy.device)
    largest = torch.zeros((), dtype=torch.float64, device=step.policy.device)
    num_tokens = 0
    step.forward.refresh()
    for pieces in plan:
        batch = _micro_batch(step, pieces, step.attention)
        batch_sums, batch_largest = _micro_batch_backward(step, batch, first=first)
        sums += batch_sums
        largest = torch.maximum(largest, batch_largest)
        num_tokens += batch.num_unique
    step.forward.finish()
    return torch.cat([sums, largest.view(1)]), [len(plan), num_tokens]


def _micro_batch_backward(step: _Step, batch: MicroBatch, *, first: bool) -> tuple[Tensor, Tensor]:
    """Run a micro-batch forward and backward; return its metric sums [6] and its largest sampling difference.

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
    return torch.stack([sums for sums, _ in chunks]).sum(dim=0), torch.stack([largest for _, largest in chunks]).max()


def _token_loss(
    step: _Step, index: Tensor, logprobs_N: Tensor, entropy_N: Tensor, *, first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return these tokens' share of the loss, their metric sums [6] and their largest sampling difference."""
    section, tokens = step.section, step.tokens
    if first:
        step.old_logprobs_M.index_copy_(0, index, logprobs_N.detach())
    advantages_N = tokens.advantages_M[index]
    ratio_N = torch.exp(logprobs_N - step.old_logprobs_M[index])
    losses_N = clipped_policy_loss(ratio_N, advantages_N, section.epsilon_low, section.epsilon_high)
    kl_N = torch.zeros_like(losses_N)
    if section.beta > 0.0:
        kl_N = ratio_N * k3_kl(logprobs_N, step.ref_logprobs_M[index])
        losses_N = losses_N + section.beta * kl_N
    loss = (tokens.weights_M[index] * losses_N).sum()
    with torch.no_grad():
        low_N, high_N = clip_flags(ratio_N, advantages_N, section.epsilon_low, section.epsilon_high)
        difference_N = (logprobs_N - tokens.sampling_logprobs_M[index]).abs()
        columns = (loss, entropy_N.sum(), kl_N.sum(), low_N.sum(), high_N.sum(), difference_N.sum())
        sums = torch.stack([column.double() for column in columns])
    return loss, sums, difference_N.max().detach().double()


def _metrics(step: _Step, totals: Tensor, norm: Tensor, *, first: bool) -> dict[str, float]:
    """Return the optimizer step's metrics. The one place where the host waits for the device."""
    loss, entropy, kl, low, high, difference, largest, grad_norm = torch.cat([totals, norm.double().view(1)]).tolist()
    counts = (len(step.groups[piece.group].completions[g].ids) for piece in step.pieces for g in piece.completions)
    computed, kept = sum(counts), max(1, step.tokens.num_kept)
    metrics = {"loss": loss, "grad_norm": grad_norm, "clip_ratio/low": low / kept, "clip_ratio/high": high / kept}
    if computed:
        metrics["entropy"] = entropy / computed
        if step.section.beta > 0.0:
            metrics["kl"] = kl / computed
        if first:
            metrics["sampling/logprob_difference/mean"] = difference / computed
            metrics["sampling/logprob_difference/max"] = largest
    return metrics


def _require_finite(metrics: dict[str, float], optimizer: torch.optim.Optimizer, index: int) -> None:
    if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
        return
    optimizer.zero_grad(set_to_none=True)
    facts = ", ".join(f"{name}={value:.4g}" for name, value in metrics.items())
    raise NonFiniteError(f"loss or gradient is not finite in optimizer step {index + 1} of the update: {facts}")


def _fill_and_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient's L2 norm, after giving every parameter a gradient if none has one.

    When every group was skipped the plain computation would hand the optimizer zeros, and its momentum would go on.
    """
    if all(parameter.grad is None for parameter in parameters):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def _mean_metrics(history: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics in history for name in metrics)
    values = {name: [metrics[name] for metrics in history if name in metrics] for name in names}
    return {name: sum(column) / len(column) for name, column in values.items()}


@contextlib.contextmanager
def _attention_of(step: _Step) -> Iterator[None]:
    """Let the policy and a copied reference use packed attention, if prompts are shared."""
    models = [step.policy.model]
    if step.reference is not None and step.reference.model is not step.policy.model:
        models.append(step.reference.model)
    with contextlib.ExitStack() as stack:
        if step.shared_prompt:
            for model in models:
                stack.enter_context(packed_attention(split_model(model)[0].config))
        yield


def _check(groups: Sequence[RolloutGroup], section: GrpoSection, reference: Reference | None) -> None:
    if not groups:
        raise UserError("policy_update: there are no groups to learn from")
    if any(len(group.advantages) != len(group.completions) for group in groups):
        raise UserError("policy_update: a group has no advantages; call with_advantages first")
    if section.beta > 0.0 and reference is None:
        raise UserError(f"grpo.beta={section.beta}: the KL term needs a reference; call build_reference first")
