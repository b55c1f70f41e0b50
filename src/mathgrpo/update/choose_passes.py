"""How a run's updates compute, chosen in the first of them: forward passes, layout, attention kernel."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch

from mathgrpo.config.machinery import Machinery
from mathgrpo.models import Policy
from mathgrpo.models.known_modules import why_not_served, why_unknown
from mathgrpo.models.load_policy import context_length
from mathgrpo.models.policy import UNBOUNDED_CONTEXT
from mathgrpo.models.settled_rope import settle_rope
from mathgrpo.update.attention.kernel_choice import choose_attention
from mathgrpo.update.attention.packed import AttentionKernel, PackedLayout
from mathgrpo.update.decoder_and_head import split_model
from mathgrpo.update.forward import Forward, ModuleForward, Passes
from mathgrpo.update.fused.fused_forward import FusedForward
from mathgrpo.update.layout_trial import unshared_reason
from mathgrpo.update.reference_policy import Reference
from mathgrpo.update.step import Step


def choose_passes(policy: Policy, reference: Reference | None, machinery: Machinery, longest: int = 0) -> Passes:
    """Return how the updates of a policy compute; on CUDA the attention kernel is left to `decide_attention`.

    longest: tokens of the longest text to come, prompt and completion.
    """
    settle_rope(policy.model, longest)
    if reference is not None and settle_rope(policy.model, 0):
        settle_rope(reference.model, UNBOUNDED_CONTEXT)
    reason = unshared_reason(policy.model, longest) if machinery.shared_prompt else "the plain computation"
    forward = choose_forward(policy, machinery, shared_prompt=not reason)
    of_reference = _forward_of_reference(policy, reference, forward)
    modules = [each for each in (forward, of_reference) if isinstance(each, ModuleForward)]
    adapter_off = reference is not None and reference.adapter_off
    return Passes(
        policy.model, policy.device, split_model(policy.model)[0].config.get_text_config().vocab_size,
        forward, of_reference,
        as_reference=policy.model.disable_adapter if adapter_off else nullcontext,
        shared_prompt=not reason,
        attention="sdpa" if isinstance(forward, ModuleForward) else None,
        attention_is_chosen=bool(reason) or not isinstance(forward, ModuleForward),
        packed=() if reason else tuple({id(each.decoder.config): each.decoder.config for each in modules}.values()),
        context=context_length(split_model(policy.model)[0].config),
        plainer=None if reason else partial(choose_passes, policy, reference, plainly(machinery), longest),
        notes=(f"prompts are computed once per completion in the update: {reason}",) if reason else (),
    )  # fmt: skip


def plainly(machinery: Machinery) -> Machinery:
    """Return what computes updates by the model's own modules, a row a completion, and all else as before."""
    return replace(machinery, shared_prompt=False, fused_forward="off")


def choose_forward(policy: Policy, machinery: Machinery, *, shared_prompt: bool) -> Forward:
    """Return the forward pass of an update by machinery.fused_forward.

    "auto" is the fused one on a CPU, for the models it serves; on CUDA the modules have kernels of their own.
    Raises: ValueError for "on" when the model or the layout is not served.
    """
    modules = ModuleForward(policy.model, policy.autocast)
    if machinery.fused_forward == "off" or (machinery.fused_forward == "auto" and _elsewhere(policy, machinery)):
        return modules
    reason = why_not_fused_forward(policy.model) if shared_prompt else "prompts are not shared"
    if not reason:
        return FusedForward(policy.model, policy.compute_dtype)
    if machinery.fused_forward == "on":
        raise ValueError(f"the fused forward pass does not serve this run, because {reason}")
    return modules


def why_not_fused_forward(model: Any) -> str:
    """Return why the update cannot use its own forward pass for a causal LM, or "" if it can."""
    if hasattr(model, "peft_config"):
        return "it trains an adapter"
    reason = why_not_served(model) or why_unknown(model, wrapped=False)
    if reason:
        return reason
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return f"{name or 'the model'} has hooks, which would not run"
    if model.config.attention_dropout:
        return "it has attention dropout"
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return "its matrices are copies in the compute precision"
    return ""


def decide_attention(step: Step, policy: Policy, asked: Literal["auto", "sdpa", "varlen"]) -> None:
    """Choose the kernel of the modules' packed attention by the step's largest micro-batch, if there is any."""
    if not step.pieces:
        return
    passes, pieces = step.passes, step.plan()[0]

    def layout_of(kernel: AttentionKernel) -> tuple[PackedLayout, int]:
        passes.attention = kernel
        batch = step.micro_batch(pieces)
        assert batch.layout is not None
        return batch.layout, batch.num_unique

    passes.attention, reason = choose_attention(policy, asked, layout_of)
    passes.attention_is_chosen = True
    passes.notes += (reason,) if reason else ()


def _elsewhere(policy: Policy, machinery: Machinery) -> bool:
    """Whether "auto" leaves the work to the modules: on CUDA, or when another kernel is asked for by name."""
    return torch.device(policy.device).type != "cpu" or machinery.attention != "auto"


def _forward_of_reference(policy: Policy, reference: Reference | None, forward: Forward) -> Forward | None:
    """Return the reference's forward pass, of the same kind as the policy's."""
    if reference is None:
        return None
    if reference.adapter_off or isinstance(forward, ModuleForward):
        return ModuleForward(reference.model, policy.autocast)
    return FusedForward(reference.model, policy.compute_dtype)
