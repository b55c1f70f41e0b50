"""The forward pass of an update: the model's own modules, or the fused one where it serves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mathgrpo.config.machinery import Machinery
from mathgrpo.models import Policy
from mathgrpo.models.policy import resting
from mathgrpo.update.fused.fused_forward import FusedForward, why_not_fused_forward
from mathgrpo.update.logprobs import decoder_states, split_model
from mathgrpo.update.pack import MicroBatch


class Forward(Protocol):
    """Hidden states and logits of micro-batches, whose gradients reach the model's parameters by `finish`."""

    def refresh(self) -> None:
        """Take over the weights as they are now; call before the first micro-batch of an optimizer step."""
        ...

    def context(self) -> AbstractContextManager[Any]:
        """Return the context in which `hidden` and `head` are called; not the backward pass."""
        ...

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the final hidden states of the micro-batch's logit rows, [N, F]."""
        ...

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """The LM head: hidden states -> logits."""
        ...

    def finish(self) -> None:
        """Complete the parameters' gradients after the last micro-batch."""
        ...


@dataclass(frozen=True, slots=True)
class ModuleForward:
    """The model's own modules, under the policy's autocast.

    Attributes:
        model: a causal LM, adapters included.
        autocast: makes the context that the modules run in.
    """

    model: Any
    autocast: Callable[[], AbstractContextManager[Any]]

    def refresh(self) -> None:
        """Do nothing: the modules are the weights."""

    def context(self) -> AbstractContextManager[Any]:
        """Return the autocast."""
        return self.autocast()

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the final hidden states; shared layout: call inside `packed_attention` of the model's config."""
        states = decoder_states(split_model(self.model)[0], batch)
        return states.flatten(0, 1).index_select(0, batch.logit_rows)

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """The model's output layer, with what its architecture does to the logits."""
        return split_model(self.model)[1]

    def finish(self) -> None:
        """Do nothing: autograd has written the gradients."""


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


def _elsewhere(policy: Policy, machinery: Machinery) -> bool:
    """Whether "auto" leaves the work to the modules: on CUDA, or when another kernel is asked for by name."""
    return torch.device(policy.device).type != "cpu" or machinery.attention != "auto"


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


def drops_out(model: Any) -> bool:
    """Return whether the model's forward pass in an update draws random numbers: adapter dropout that is on."""
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Dropout))
    return any("lora_dropout" in name and module.p > 0.0 for name, module in named)
