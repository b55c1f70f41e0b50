"""One policy update: micro-batches, loss, gradient, clipping, optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.distributed import SINGLE, World
from mathgrpo.types import RolloutGroup
from mathgrpo.update.gradient import Step, step_gradient
from mathgrpo.update.layout_trial import unshared_reason
from mathgrpo.update.modes import update_mode
from mathgrpo.update.movement import moved_fraction, weight_sample
from mathgrpo.update.old_logprobs import Importance, SequenceRatios, fill_old_logprobs, weigh_advantages
from mathgrpo.update.pack import Piece, pieces_with_loss
from mathgrpo.update.reference_policy import Reference
from mathgrpo.update.shares import divided, summed_step
from mathgrpo.update.step_setup import attention_of, build_step, check_update, choose_step_attention

DEFAULT_TOKEN_BUDGET = 8192


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not a finite number, found before the optimizer step, so the weights are unharmed."""


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What an update did.

    Attributes:
        metrics: loss, grad_norm, entropy, kl (with beta > 0), clip_ratio/low and /high,
            sampling/logprob_difference/mean and /max, weights_moved; with importance weights their mean and max, and
            importance/capped, the share of tokens at the cap. Means over the update's optimizer steps; a metric
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
    world: World = SINGLE,
    parts: Sequence[Sequence[Piece]] = (),
    look_ahead: Importance | None = None,
    by_sequence: bool = False,
) -> UpdateStats:
    """Take section.updates_per_rollout optimizer steps on the groups, and return what happened.

    The old log-probabilities of the ratio are those of the first of these steps, when the policy is still the one that
    sampled; with one step they are token_logprobs themselves without gradient, and no extra pass is made. The
    difference to the engine's own sampling log-probabilities is logged. Learning rates are the caller's to set before.

    policy: its model, device and autocast() are used. The model is in evaluation mode here, except adapter dropout.
    token_budget: overrides section.token_budget; hand on stats.token_budget to remember a halving. With neither, it is
        DEFAULT_TOKEN_BUDGET.
    world: processes that take this step together, all with the same groups: each computes its part of them, the
        gradients are added up, and every process takes the same optimizer step.
    parts: the completions of each optimizer step, in turn; none: every step takes all. A part counts as much as the
        whole does: its token weights are multiplied by the number of parts. The old log-probabilities are then those
        of one forward pass before the first step.
    look_ahead: importance weights that take a forward pass before the first step, other than section.importance.
    by_sequence: one ratio for each completion, not for each token; not with a KL term.
    Raises: NonFiniteError before the weights change; UserError for groups without advantages or beta without reference.
    """
    check_update(groups, section, reference)
    reason = unshared_reason(policy.model) if section.shared_prompt else "grpo.shared_prompt=false"
    pieces = pieces_with_loss(groups, section)
    turns = [_common(pieces, part) for part in parts] or [pieces]
    shares = [_own(world, groups, turn, shared_prompt=not reason) for turn in turns]
    step = build_step(
        policy, groups, section, shares, reference, temperature=temperature, max_new_tokens=max_new_tokens,
        token_budget=token_budget or section.token_budget or DEFAULT_TOKEN_BUDGET, shared_prompt=not reason,
    )  # fmt: skip
    notes = choose_step_attention(step)
    before = weight_sample(_parameters(optimizer))
    with attention_of(step), update_mode(policy.model):
        by_sequence = by_sequence and section.updates_per_rollout > 1  # else every ratio is 1
        weighed = _look_ahead(step, len(turns) > 1 or by_sequence, look_ahead)
        ratios = SequenceRatios.of(step) if by_sequence else None
        history, counts = _take_steps(step, optimizer, turns, shares, max_grad_norm, world, ratios)
    moved = moved_fraction(before, weight_sample(_parameters(optimizer)))
    notes += (f"prompts are computed once per completion in the update: {reason}",) if reason else ()
    return UpdateStats(
        metrics=_mean_metrics(history) | weighed | {"weights_moved": moved},
        tokens=counts[1],
        completion_tokens=step.tokens.num_tokens,
        micro_batches=counts[0],
        skipped_groups=len(groups) - len({piece.group for piece in pieces}),
        token_budget=step.token_budget,
        layout="plain" if reason else "shared",
        notes=notes,
    )


def _take_steps(
    step: Step, optimizer: torch.optim.Optimizer, turns: Sequence[list[Piece]], shares: Sequence[list[Piece]],
    max_grad_norm: float, world: World, ratios: SequenceRatios | None,
) -> tuple[list[dict[str, float]], list[int]]:  # fmt: skip
    """Take the optimizer steps; return the metrics of each, and the last one's [micro-batches, tokens].

    turns: the pieces of each optimizer step, round and round; shares: what this process computes of them.
    ratios: of whole completions, in place of tokens.
    Raises: NonFiniteError before the weights change.
    """
    parameters = _parameters(optimizer)
    history: list[dict[str, float]] = []
    counts: list[int] = [0, 0]
    for index in range(step.section.updates_per_rollout):
        turn, first = index % len(turns), index < len(turns)
        step.pieces = shares[turn]
        clipped = ratios.set_for(step) if ratios is not None else {}
        totals, counts = step_gradient(step, optimizer, first=first)
        world.sum_gradients(parameters)
        totals, counts, step.token_budget = summed_step(world, totals, counts, step.token_budget)
        norm = _fill_and_norm(parameters)
        metrics = _metrics(step, turns[turn], totals, norm, first=first, parts=len(turns)) | clipped
        _require_finite(metrics, optimizer, index)
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append(metrics)
    return history, counts


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _common(pieces: Sequence[Piece], part: Sequence[Piece]) -> list[Piece]:
    """Return the pieces of a part of the completions, without those that have no loss."""
    wanted = {(piece.group, g) for piece in part for g in piece.completions}
    kept = [Piece(p.group, tuple(g for g in p.completions if (p.group, g) in wanted)) for p in pieces]
    return [piece for piece in kept if piece.completions]


def _own(world: World, groups: Sequence[RolloutGroup], pieces: list[Piece], *, shared_prompt: bool) -> list[Piece]:
    """Return what this process computes of the pieces."""
    if world.size == 1:
        return pieces
    return divided(groups, pieces, world.size, shared_prompt=shared_prompt)[world.rank]


def _look_ahead(step: Step, needs_old: bool, importance: Importance | None) -> dict[str, float]:
    """Compute old log-probabilities before the first step where it needs them all; return the weights' metrics."""
    if not needs_old and importance is None:
        return {}
    fill_old_logprobs(step)
    step.old_known = True
    return weigh_advantages(step, importance) if importance is not None else {}


def _metrics(
    step: Step, pieces: Sequence[Piece], totals: Tensor, norm: Tensor, *, first: bool, parts: int
) -> dict[str, float]:
    """Return the optimizer step's metrics. The one place where the host waits for the device.

    pieces: those of all processes.
    """
    numbers: list[float] = torch.cat([totals, norm.double().view(1)]).tolist()
    loss, entropy, kl, low, high, difference, importance, capped, largest, heaviest, grad_norm = numbers
    counts = (len(step.groups[piece.group].completions[g].ids) for piece in pieces for g in piece.completions)
    computed, kept = sum(counts), max(1.0, step.tokens.num_kept / parts)
    metrics = {"loss": loss, "grad_norm": grad_norm, "clip_ratio/low": low / kept, "clip_ratio/high": high / kept}
    if computed:
        metrics["entropy"] = entropy / computed
        if step.section.beta > 0.0:
            metrics["kl"] = kl / computed
        if first:
            metrics["sampling/logprob_difference/mean"] = difference / computed
            metrics["sampling/logprob_difference/max"] = largest
        if step.section.importance == "on":
            metrics["importance/mean"], metrics["importance/max"] = importance / computed, heaviest
            metrics["importance/capped"] = capped / computed
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
