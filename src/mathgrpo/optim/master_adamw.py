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
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mathgrpo.errors import first_line
from mathgrpo.hardware.cuda_care import pass_on
from mathgrpo.update.layer_modes import layers_of

_TRIAL_TOLERANCE = 1e-5
"""Of two steps of 0.1 on weights up to 4, where neighbours are 5e-7 apart: rounding, and a ten-thousandth of a step."""
_TRIAL_SIZES = (5008, 5001)
"""The kernel has a form for sizes that are multiples of 16 and one for others; both end inside a block."""


class MasterAdamW(torch.optim.AdamW):
    """AdamW whose parameters are float32 masters; after every step their copies in the model follow.

    Attributes:
        masters: parameter of the model -> its master, for those that are copies.
        copies: the same parameters -> the copies' own memory.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], masters: Mapping[nn.Parameter, nn.Parameter], *,
        lr: float, betas: tuple[float, float], use_kernel: bool,
    ) -> None:  # fmt: skip
        """use_kernel: take the step with the Triton kernel, which writes the copies too; else with torch's."""
        self.masters = dict(masters)
        self.copies = {parameter: parameter.data for parameter in masters}
        self._kernel: Any = None
        super().__init__(groups, lr=lr, betas=betas, fused=True)
        if use_kernel:
            from mathgrpo.optim.adamw_kernel import AdamWKernel

            self._kernel = AdamWKernel()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step on every master that has a gradient, then bring its copy up to date."""
        assert closure is None, "a step is taken on gradients that are there already"
        if self._kernel is not None:
            self._kernel_step()
            return
        super().step()
        if self.masters:
            torch._foreach_copy_([copy.data for copy in self.masters], list(self.masters.values()))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, also those of copies that a backward pass cut short had not handed on yet."""
        super().zero_grad(set_to_none)
        for copy in self.masters:
            copy.grad = None

    def _kernel_step(self) -> None:
        copies = {id(master): copy.data for copy, master in self.masters.items()}
        for group in self.param_groups:
            rows = [self._row(p, group, copies.get(id(p))) for p in group["params"] if p.grad is not None]
            self._kernel.step(rows, *group["betas"], group["eps"])

    def _row(self, master: nn.Parameter, group: dict[str, Any], copy: Tensor | None) -> Any:
        """Return what the kernel needs to know about one master, its step counted up."""
        from mathgrpo.optim.adamw_kernel import Row

        state, (beta1, beta2), rate = self.state[master], group["betas"], group["lr"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(master), torch.zeros_like(master)
        # The count stays on the host: its powers are taken there, in double precision, without waiting for the device.
        state["step"] = state["step"].cpu() + 1
        count = float(state["step"])
        assert master.grad is not None
        return Row(
            master.grad.contiguous(), master.data, state["exp_avg"], state["exp_avg_sq"], copy,
            decay=1 - rate * group["weight_decay"], step_size=rate / (1 - beta1**count),
            root_scale=(1 - beta2**count) ** -0.5,
        )  # fmt: skip


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


@cache
def kernel_obstacle(device: torch.device) -> str:
    """Return why the Triton kernel cannot take the steps on a device, or "" after it has taken torch's on a trial."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    try:
        differences = [_trial(device, size) for size in _TRIAL_SIZES]
    # A compiler or driver can fail in any way of its own; torch's optimizer is there instead.
    except Exception as error:
        pass_on(error, "run.engine=fast", "run.engine=plain")
        return f"it fails here ({type(error).__name__}: {first_line(error, 120)})"
    wrong = [difference for difference in differences if not difference <= _TRIAL_TOLERANCE]
    return f"its step differs from torch's by {wrong[0]:.1g}" if wrong else ""


def _trial(device: torch.device, size: int) -> float:
    """Return the largest difference of two steps of 0.1 by the kernel and by torch, on one tensor."""
    results = []
    for use_kernel in (False, True):
        generator = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(size, generator=generator).to(device))
        groups = [{"params": [weight], "weight_decay": 0.1}]
        optimizer = MasterAdamW(groups, {}, lr=0.1, betas=(0.9, 0.99), use_kernel=use_kernel)
        for _ in range(2):
            weight.grad = torch.randn(size, generator=generator).to(device)
            optimizer.step()
        results.append(weight.detach())
    return float((results[0] - results[1]).abs().max())


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
