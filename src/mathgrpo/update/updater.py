"""One policy update: micro-batches, loss, gradient, clipping, optimizer step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mathgrpo.config.machinery import FAST, Machinery
from mathgrpo.distributed import SINGLE, World
from mathgrpo.hardware.cuda_care import uploaded
from mathgrpo.models import Policy
from mathgrpo.models.policy import module_outfit, resting
from mathgrpo.rollout.sampling import rounding_noise
from mathgrpo.types import RolloutGroup
from mathgrpo.update.choose_passes import choose_passes, decide_attention, plainly
from mathgrpo.update.fall_back import fall_back
from mathgrpo.update.first_pass import drops_out, fill_old_logprobs
from mathgrpo.update.forward import Passes
from mathgrpo.update.gradient import step_gradient
from mathgrpo.update.lesson import Lesson, NonFiniteError, UpdateStats
from mathgrpo.update.pack import Piece, objective_of, pieces_with_loss
from mathgrpo.update.reference_policy import Reference
from mathgrpo.update.sampler_check import doubt
from mathgrpo.update.shares import of_all_processes, of_part, share_of
from mathgrpo.update.step import Step, Totals, step_tokens

DEFAULT_TOKEN_BUDGET = 8192
MOVEMENT_SAMPLE = 1 << 20
"""Weights, about, at which an update looks to see how many it changed: small ones are lost in 16-bit masters."""


class Updater:
    """Takes optimizer steps on rollouts. One serves a whole run: its first update chooses how all of them compute.

    A later one chooses anew when the model has been wrapped or hooked since, which a pass of our own would not run, and
    when texts have become longer. What fails in an update is left for good, for the plain passes that take its step.
    """

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, *, reference: Reference | None = None,
        world: World = SINGLE, machinery: Machinery = FAST, longest: int = 0,
    ) -> None:  # fmt: skip
        """policy: its model is in evaluation mode in an update, except adapter dropout. reference: for a KL term.

        world: processes that take a step together, all with the same groups, each computing its part of them.
        machinery: the layouts and kernels that compute it; its numbers are the same within rounding.
        longest: tokens of the longest text of the run, as far as it is known.
        """
        self._policy, self._optimizer, self._reference = policy, optimizer, reference
        self._world, self._machinery, self._longest = world, machinery, longest
        self._passes: Passes | None = None
        self._outfit: list[tuple[object, ...]] = []

    def update(self, groups: Sequence[RolloutGroup], lesson: Lesson, *, token_budget: int | None = None) -> UpdateStats:
        """Take section.updates_per_rollout optimizer steps on the groups, and return what happened.

        The old log-probabilities of the ratio are those of the first of these steps, when the policy is still the one
        that sampled, and no extra pass is made. Learning rates are the caller's to set before.

        token_budget: overrides machinery.token_budget; hand on stats.token_budget to remember a halving.
        Raises: NonFiniteError and SamplerError before the weights change.
        """
        section, importance = lesson.section, lesson.importance
        policy, world, machinery = self._policy, self._world, self._machinery
        longest = max((len(group.prompt.ids) for group in groups), default=0) + lesson.max_new_tokens
        passes = self._chosen_passes(longest)
        objective = objective_of(section, importance)
        pieces = pieces_with_loss(groups, section, skip_zero_advantage=machinery.skip_zero_advantage)
        turns = [of_part(pieces, part) for part in lesson.parts] or [pieces]
        shares = turns if world.size == 1 else [share_of(world, passes, groups, turn) for turn in turns]
        tokens = step_tokens(groups, objective, section.mask_truncated, lesson.max_new_tokens, num_parts=len(turns))
        step = Step(
            passes, groups, objective, lesson.temperature,
            tokens=tokens if passes.device == "cpu" else uploaded(tokens, passes.device),
            pieces=[piece for share in shares for piece in share],
            entropy_weight=objective.settings["entropy_coef"] * len(turns) / max(1, tokens.num_kept),
            token_budget=token_budget or machinery.token_budget or DEFAULT_TOKEN_BUDGET,
        )  # fmt: skip
        if not passes.attention_is_chosen:
            decide_attention(step, policy, machinery.attention)
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        before = _weight_sample(parameters)
        history, counts = [], [0, 0]
        with update_mode(policy.model):
            if len(turns) > 1 or (importance is not None and drops_out(policy.model)):
                fill_old_logprobs(step)
            for index in range(section.updates_per_rollout):
                step.pieces, pieces_of_all = shares[index % len(turns)], turns[index % len(turns)]
                metrics, counts = self._optimizer_step(
                    step, parameters, pieces_of_all, lesson, index=index, num_parts=len(turns)
                )
                history.append(metrics)
        if step.passes is not passes:
            self._passes, self._machinery = step.passes, plainly(machinery)
        return UpdateStats(
            metrics=_mean_metrics(history) | {"weights_moved": _moved_fraction(before, _weight_sample(parameters))},
            tokens=counts[1],
            completion_tokens=len(tokens.weights_M),
            micro_batches=counts[0],
            skipped_groups=len(groups) - len({piece.group for piece in pieces}),
            token_budget=step.token_budget,
            layout="shared" if step.passes.shared_prompt else "plain",
            notes=step.passes.notes,
        )

    def _chosen_passes(self, longest: int) -> Passes:
        """Return how to compute, as it was chosen for the model as it is dressed now and for texts as long as now."""
        outfit = module_outfit(self._policy.model)
        if self._passes is None or outfit != self._outfit or longest > self._longest:
            self._longest, self._outfit = max(longest, self._longest), outfit
            self._passes = choose_passes(self._policy, self._reference, self._machinery, self._longest)
        return self._passes

    def _optimizer_step(
        self, step: Step, parameters: Sequence[Tensor], pieces: Sequence[Piece], lesson: Lesson, *,
        index: int, num_parts: int,
    ) -> tuple[dict[str, float], list[int]]:  # fmt: skip
        """Take one optimizer step on step.pieces; return its metrics and [micro-batches, tokens].

        pieces: those of all processes. index: of the step in the update, whose completions are in num_parts parts.
        Raises: NonFiniteError before the weights change.
        """
        optimizer, first = self._optimizer, index < num_parts
        while True:
            totals, counts = step_gradient(step, optimizer, first=first)
            if self._world.size > 1:
                self._world.sum_gradients(parameters)
                totals, counts = of_all_processes(self._world, step, totals, counts)
            norm = _fill_and_norm(parameters)
            metrics = _metrics(step, pieces, totals, norm, first=first, num_parts=num_parts)
            failure = _failure(metrics, index) or ("" if index else self._doubt(step, lesson, metrics))
            if not failure:
                break
            optimizer.zero_grad(set_to_none=True)
            if step.passes.plainer is None:
                raise NonFiniteError(failure)
            fall_back(step, failure)
        torch.nn.utils.clip_grads_with_norm_(parameters, lesson.max_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return metrics, counts

    def _doubt(self, step: Step, lesson: Lesson, metrics: dict[str, float]) -> str:
        """Return why the step's log-probabilities are not the policy's, "" where they are, or nobody asks.

        Raises: SamplerError when the completions were not drawn from it.
        """
        allowed = max(lesson.tolerance, rounding_noise(self._policy.compute_dtype, lesson.temperature))
        if lesson.sampling is None or metrics.get("sampling/logprob_difference/mean", 0.0) <= allowed:
            return ""
        return doubt(step, self._policy, lesson.sampling, allowed, self._world)


def _failure(metrics: dict[str, float], index: int) -> str:
    """Return what is not finite in an optimizer step, "" for nothing."""
    if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
        return ""
    facts = ", ".join(f"{name}={value:.4g}" for name, value in metrics.items())
    return f"loss or gradient is not finite in optimizer step {index + 1} of the update: {facts}"


@contextlib.contextmanager
def update_mode(model: Any) -> Iterator[None]:
    """Put the model in evaluation mode but for adapter dropout; restore the modes after.

    Dropout in the base model would make the policy that is updated another one than the policy that sampled.
    """
    with resting(model):
        for name, module in model.named_modules():
            if "lora_dropout" in name:
                module.training = True
        yield


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
    flags = step.objective.flags
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
