"""An optimizer step before its first forward pass: what it computes, by which forward pass, with which attention."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.errors import UserError
from mathgrpo.grpo.objectives import Objective
from mathgrpo.models import Policy
from mathgrpo.models.policy import resting
from mathgrpo.types import RolloutGroup
from mathgrpo.update.attention.kernel_choice import choose_attention
from mathgrpo.update.attention.packed import AttentionKernel, PackedLayout, packed_attention
from mathgrpo.update.forward import Forward, ModuleForward, choose_forward
from mathgrpo.update.fused.fused_forward import FusedForward
from mathgrpo.update.layout_trial import try_layouts
from mathgrpo.update.logprobs import split_model
from mathgrpo.update.pack import MicroBatch, Piece, build_micro_batch, plan_micro_batches
from mathgrpo.update.reference_policy import Reference
from mathgrpo.update.step_tokens import StepTokens, step_tokens


@dataclass(slots=True)
class Step:
    """All that the micro-batches of one update share.

    Attributes:
        objective: the loss, by which `tokens` are weighed.
        tokens, pieces: what there is to compute.
        entropy_weight: what the entropy bonus adds for every token, its normaliser included.
        old_logprobs_M, ref_logprobs_M: fill in the update's first pass.
        forward, reference_forward: how policy and reference compute.
        attention: kernel of the modules' packed attention; None with the fused forward pass.
        old_known: old_logprobs_M is filled before the first pass.
    """

    policy: Policy
    groups: Sequence[RolloutGroup]
    objective: Objective
    temperature: float
    reference: Reference | None
    tokens: StepTokens
    entropy_weight: float
    pieces: list[Piece]
    shared_prompt: bool
    token_budget: int
    old_logprobs_M: Tensor
    ref_logprobs_M: Tensor
    forward: Forward
    reference_forward: Forward | None
    attention: AttentionKernel | None = "sdpa"
    old_known: bool = False

    def plan(self) -> list[list[Piece]]:
        """Return the pieces in micro-batches, as the token budget is now."""
        return plan_micro_batches(self.groups, self.pieces, self.token_budget, shared_prompt=self.shared_prompt)

    def micro_batch(self, pieces: Sequence[Piece]) -> MicroBatch:
        """Return the tensors of some pieces, laid out for the attention kernel."""
        return build_micro_batch(
            self.groups, self.tokens, pieces,
            shared_prompt=self.shared_prompt, device=self.policy.device, attention=self.attention,
        )  # fmt: skip


def check_update(groups: Sequence[RolloutGroup], section: GrpoSection, reference: Reference | None) -> None:
    """Return when there is something to learn from, and all that the loss needs.

    Raises: UserError otherwise.
    """
    if not groups:
        raise UserError("policy_update: there are no groups to learn from")
    if any(len(group.advantages) != len(group.completions) for group in groups):
        raise UserError("policy_update: a group has no advantages; call with_advantages first")
    if section.beta > 0.0 and reference is None:
        raise UserError(f"grpo.beta={section.beta}: the KL term needs a reference; call build_reference first")


def build_step(
    policy: Policy, groups: Sequence[RolloutGroup], section: GrpoSection, objective: Objective,
    shares: Sequence[list[Piece]], reference: Reference | None, *, temperature: float, max_new_tokens: int,
    token_budget: int, shared_prompt: bool, machinery: Machinery,
) -> Step:  # fmt: skip
    """Return the step with everything that this process computes in it, its old log-probabilities not yet known.

    shares: the pieces of each optimizer step. Each counts as much as all of them would: token weights are multiplied
        by their number.
    """
    tokens = step_tokens(groups, section, max_new_tokens, policy.device)
    forward = choose_forward(policy, machinery, shared_prompt=shared_prompt)
    return Step(
        policy, groups, objective, temperature, reference, replace(tokens, weights_M=tokens.weights_M * len(shares)),
        objective.settings["entropy_coef"] * len(shares) / max(1, tokens.num_kept),
        [piece for share in shares for piece in share], shared_prompt, token_budget,
        torch.zeros_like(tokens.weights_M), torch.zeros_like(tokens.weights_M),
        forward, _forward_of_reference(policy, reference, forward),
    )  # fmt: skip


def _forward_of_reference(policy: Policy, reference: Reference | None, forward: Forward) -> Forward | None:
    """Return the reference's forward pass, of the same kind as the policy's."""
    if reference is None:
        return None
    if reference.adapter_off or isinstance(forward, ModuleForward):
        return ModuleForward(reference.model, policy.autocast)
    return FusedForward(reference.model, policy.compute_dtype)


def choose_step_attention(step: Step, machinery: Machinery) -> tuple[str, ...]:
    """Choose the attention kernel by the step's largest micro-batch; return what the run should know about it."""
    if not isinstance(step.forward, ModuleForward):
        step.attention = None
    if step.attention is None or not step.shared_prompt or not step.pieces:
        return ()
    pieces = step.plan()[0]

    def layout_of(kernel: AttentionKernel) -> tuple[PackedLayout, int]:
        batch = replace(step, attention=kernel).micro_batch(pieces)
        assert batch.layout is not None
        return batch.layout, batch.num_unique

    choice = choose_attention(step.policy, machinery.attention, layout_of)
    step.attention = choice.kernel
    return (choice.reason,) if choice.reason else ()


@contextlib.contextmanager
def attention_of(step: Step) -> Iterator[None]:
    """Let the modules that compute use packed attention, if prompts are shared."""
    forwards = (step.forward, step.reference_forward) if step.shared_prompt else ()
    decoders = [split_model(forward.model)[0] for forward in forwards if isinstance(forward, ModuleForward)]
    with contextlib.ExitStack() as stack:
        for config in {id(decoder.config): decoder.config for decoder in decoders}.values():
            stack.enter_context(packed_attention(config))
        yield


_reasons: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def unshared_reason(model: Any) -> str:
    """Return why the model's prompts cannot be shared in the update, or "" if they can; remembered by model.

    Two small groups go through the packed layout, the plain layout and the model's own forward. Whatever an
    architecture does beside ordinary attention (biases by position, sinks, recurrence) shows as different logits.

    Raises: UserError when not even the plain layout reproduces the model's own logits.
    """
    decoder, _ = split_model(model)
    if decoder not in _reasons:
        with resting(model):
            _reasons[decoder] = try_layouts(model)
    return _reasons[decoder]
