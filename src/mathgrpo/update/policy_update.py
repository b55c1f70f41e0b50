"""One policy update: micro-batches, loss, gradient, clipping, optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mathgrpo.config.machinery import FAST, Machinery
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.distributed import SINGLE, World
from mathgrpo.grpo.importance import Importance
from mathgrpo.models import Policy
from mathgrpo.types import RolloutGroup
from mathgrpo.update.forward import drops_out, update_mode
from mathgrpo.update.gradient import Totals, divided, fill_old_logprobs, of_all_processes, step_gradient
from mathgrpo.update.pack import Piece, pieces_with_loss
from mathgrpo.update.reference_policy import Reference
from mathgrpo.update.step_setup import (
    Step,
    attention_of,
    build_step,
    check_update,
    choose_step_attention,
    unshared_reason,
)
from mathgrpo.update.step_tokens import objective_of

DEFAULT_TOKEN_BUDGET = 8192
MOVEMENT_SAMPLE = 1 << 20
"""Weights, about, at which an update looks to see how many it changed: small ones are lost in 16-bit masters."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not a finite number, found before the optimizer step, so the weights are unharmed."""


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What an update did.

    Attributes:
        metrics: loss, grad_norm, entropy, kl (with beta > 0), clip_ratio/low and /high (of losses that clip),
            sampling/logprob_difference/mean and /max, weights_moved; with importance weights their mean, min and max,
            and importance/capped, the share at a bound. Means over the update's optimizer steps; a metric of which no
            token was computed is absent. entropy, kl, importance and the sampling difference are means over what was
            computed, clip ratios over all that is not masked: tokens, or completions where these have one value.
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
    policy: Policy, optimizer: torch.optim.Optimizer, groups: Sequence[RolloutGroup], section: GrpoSection, *,
    temperature: float, max_new_tokens: int, max_grad_norm: float, reference: Reference | None = None,
    token_budget: int | None = None, world: World = SINGLE, parts: Sequence[Sequence[Piece]] = (),
    importance: Importance | None = None,
    machinery: Machinery = FAST,
) -> UpdateStats:  # fmt: skip
    """Take section.updates_per_rollout optimizer steps on the groups, and return what happened.

    The old log-probabilities of the ratio are those of the first of these steps, when the policy is still the one that
    sampled, and no extra pass is made. Learning rates are the caller's to set before.

    policy: its model is in evaluation mode here, except adapter dropout.
    token_budget: overrides machinery.token_budget; hand on stats.token_budget to remember a halving.
    world: processes that take this step together, all with the same groups, each computing its part of them.
    machinery: the layouts and kernels that compute it; its numbers are the same within rounding.
    parts: the completions of each optimizer step, in turn; none: every step takes all. A part counts as much as the
        whole does. The old log-probabilities are then those of one forward pass before the first step.
    importance: weights for the sampler's numerics.
    Raises: NonFiniteError before the weights change; UserError for groups without advantages, beta without reference,
        or a loss that does not exist.
    """
    check_update(groups, section, reference)
    objective = objective_of(section, importance)
    reason = unshared_reason(policy.model) if machinery.shared_prompt else "the plain computation"
    pieces = pieces_with_loss(groups, section, skip_zero_advantage=machinery.skip_zero_advantage)
    turns = [_common(pieces, part) for part in parts] or [pieces]
    shares = [divided(groups, turn, world.size, shared_prompt=not reason)[world.rank] for turn in turns]
    step = build_step(
        policy, groups, section, objective, shares, reference, temperature=temperature, max_new_tokens=max_new_tokens,
        token_budget=token_budget or machinery.token_budget or DEFAULT_TOKEN_BUDGET, shared_prompt=not reason,
        machinery=machinery,
    )  # fmt: skip
    notes = choose_step_attention(step, machinery)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = _weight_sample(parameters)
    history, counts = [], [0, 0]
    with attention_of(step), update_mode(policy.model):
        if len(turns) > 1 or (objective.importance is not None and drops_out(policy.model)):
            fill_old_logprobs(step)
        for index in range(section.updates_per_rollout):
            step.pieces, pieces_of_all = shares[index % len(turns)], turns[index % len(turns)]
            metrics, counts = _optimizer_step(
                step, optimizer, parameters, pieces_of_all, max_grad_norm, world, index, len(turns)
            )
            history.append(metrics)
    notes += (f"prompts are computed once per completion in the update: {reason}",) if reason else ()
    return UpdateStats(
        metrics=_mean_metrics(history) | {"weights_moved": _moved_fraction(before, _weight_sample(parameters))},
        tokens=counts[1],
        completion_tokens=step.tokens.num_tokens,
        micro_batches=counts[0],
        skipped_groups=len(groups) - len({piece.group for piece in pieces}),
        token_budget=step.token_budget,
        layout="plain" if reason else "shared",
        notes=notes,
    )


def _optimizer_step(
    step: Step, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], pieces: Sequence[Piece],
    max_grad_norm: float, world: World, index: int, num_parts: int,
) -> tuple[dict[str, float], list[int]]:  # fmt: skip
    """Take one optimizer step on step.pieces; return its metrics and [micro-batches, tokens].

    pieces: those of all processes. index: of the step in the update, whose completions are in num_parts parts.
    Raises: NonFiniteError before the weights change.
    """
    totals, counts = step_gradient(step, optimizer, first=index < num_parts)
    world.sum_gradients(parameters)
    totals, counts, step.token_budget = of_all_processes(world, totals, counts, step.token_budget, step.policy.device)
    norm = _fill_and_norm(parameters)
    metrics = _metrics(step, pieces, totals, norm, first=index < num_parts, num_parts=num_parts)
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
        optimizer.zero_grad(set_to_none=True)
        facts = ", ".join(f"{name}={value:.4g}" for name, value in metrics.items())
        raise NonFiniteError(f"loss or gradient is not finite in optimizer step {index + 1} of the update: {facts}")
    torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return metrics, counts


def _common(pieces: Sequence[Piece], part: Sequence[Piece]) -> list[Piece]:
    """Return the pieces of a part of the completions, without those that have no loss."""
    wanted = {(piece.group, g) for piece in part for g in piece.completions}
    kept = [Piece(p.group, tuple(g for g in p.completions if (p.group, g) in wanted)) for p in pieces]
    return [piece for piece in kept if piece.completions]


def _metrics(
    step: Step, pieces: Sequence[Piece], totals: Totals, norm: Tensor, *, first: bool, num_parts: int
) -> dict[str, float]:
    """Return the optimizer step's metrics. The one place where the host waits for the device.

    pieces: those of all processes.
    """
    names = ["grad_norm", *totals]
    numbers = dict(zip(names, torch.stack([norm.double(), *totals.values()]).tolist(), strict=True))
    lengths = [len(step.groups[piece.group].completions[g].ids) for piece in pieces for g in piece.completions]
    kept = max(1.0, step.tokens.num_kept / num_parts), max(1.0, step.tokens.num_kept_completions / num_parts)
    computed = sum(lengths), len(lengths)
    flags = step.objective.kind.flags
    metrics = {"loss": numbers.pop("loss", 0.0), "grad_norm": numbers.pop("grad_norm")} | dict.fromkeys(flags, 0.0)
    for name, number in numbers.items():
        if name.endswith(("/max", "/min")):
            metrics[name] = number
        else:
            whole = step.objective.counts_completions(name)
            metrics[name] = number / (kept if name in flags else computed)[whole]
    if not first:
        metrics = {name: value for name, value in metrics.items() if not name.startswith("sampling/")}
    return metrics


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


def _weight_sample(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of about MOVEMENT_SAMPLE weights, or of all if there are fewer."""
    stride = max(1, sum(parameter.numel() for parameter in parameters) // MOVEMENT_SAMPLE)
    return [parameter.detach().flatten()[::stride].clone() for parameter in parameters]


def _moved_fraction(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the share of the sampled weights whose value is another one, 0 to 1."""
    moved = [(old != new).sum() for old, new in zip(before, after, strict=True)]
    return float(torch.stack(moved).sum()) / max(1, sum(old.numel() for old in before))
