"""AdamW on float32 masters, with the model's own matrices as copies in the compute precision.

Under autocast a model with float32 weights casts every matrix in every micro-batch and hands its gradient back in
float32. Here the matrices of the transformer layers are the cast ones already; their gradients are added up in float32
on the masters as each micro-batch's backward pass produces them. The numbers are the same, bit for bit: the same casts
of the same values, done once per optimizer step. Embeddings, norms, biases and the LM head stay float32 in the model:
autocast leaves the first ones alone, and the head adds up its gradient over chunks of tokens in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mathgrpo.update.layer_modes import layers_of


class MasterAdamW(torch.optim.AdamW):
    """AdamW whose parameters are float32 masters; after every step their copies in the model follow.

    Attributes:
        masters: parameter of the model -> its master, for those that are copies.
        copies: the same parameters -> the copies' own memory.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], masters: Mapping[nn.Parameter, nn.Parameter], *,
        lr: float, betas: tuple[float, float],
    ) -> None:  # fmt: skip
        self.masters = dict(masters)
        self.copies = {parameter: parameter.data for parameter in masters}
        super().__init__(groups, lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step on every master that has a gradient, then bring its copy up to date."""
        assert closure is None, "a step is taken on gradients that are there already"
        super().step()
        torch._foreach_copy_([copy.data for copy in self.masters], list(self.masters.values()))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, also those of copies that a backward pass cut short had not handed on yet."""
        super().zero_grad(set_to_none)
        for copy in self.masters:
            copy.grad = None


def make_compute_copies(model: Any, dtype: torch.dtype) -> dict[nn.Parameter, nn.Parameter]:
    """Turn the trainable matrices of the layers' nn.Linear modules into copies; return parameter -> float32 master.

    A parameter that is used outside the layers too (tied weights) stays as it is.
    """
    layers = layers_of(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    outside = {id(p) for m in model.modules() if id(m) not in inside for p in m.parameters(recurse=False)}
    linears = [m for layer in layers for m in layer.modules() if type(m) is nn.Linear]
    masters: dict[nn.Parameter, nn.Parameter] = {}
    for module in linears:
        weight: Any = module.weight
        if weight in masters or not weight.requires_grad or weight.dtype != torch.float32 or id(weight) in outside:
            continue
        masters[weight] = nn.Parameter(weight.data)
        weight.register_post_accumulate_grad_hook(_hand_on(masters[weight]))
    for weight, master in masters.items():
        weight.grad = None
        weight.data = master.data.to(dtype)
    return masters


def master_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> nn.Parameter:
    """Return the parameter that the optimizer trains for a parameter of the model: its master, or itself."""
    return optimizer.masters.get(parameter, parameter) if isinstance(optimizer, MasterAdamW) else parameter


@contextlib.contextmanager
def full_precision(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put the masters in the place of the model's copies inside the block, as for saving; copies keep their memory."""
    masters = optimizer.masters if isinstance(optimizer, MasterAdamW) else {}
    copies = {parameter: parameter.data for parameter in masters}
    try:
        for parameter, master in masters.items():
            parameter.data = master.data
        yield
    finally:
        for parameter, copy in copies.items():
            parameter.data = copy


@contextlib.contextmanager
def compute_copies(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put the copies, brought up to date, into the model inside the block, and leave the masters in it.

    For a model whose owner meets it with float32 weights: with its layers alone in bfloat16 it fails outside autocast,
    and would be saved in that precision.
    """
    masters, copies = (optimizer.masters, optimizer.copies) if isinstance(optimizer, MasterAdamW) else ({}, {})
    if copies:
        torch._foreach_copy_(list(copies.values()), [masters[parameter].data for parameter in copies])
    for parameter, copy in copies.items():
        parameter.data = copy
    try:
        yield
    finally:
        for parameter, master in masters.items():
            parameter.data = master.data


def _hand_on(master: nn.Parameter) -> Callable[[Tensor], None]:
    """Return a hook that adds a copy's gradient to its master's, in float32."""

    def hook(copy: Tensor) -> None:
        assert copy.grad is not None
        if master.grad is None:
            master.grad = copy.grad.float()
        else:
            master.grad += copy.grad
        copy.grad = None

    return hook
