"""The optimizer of a run, AdamW on the float32 masters that train, and its learning rate over the steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mathgrpo.config.machinery import FAST, Machinery
from mathgrpo.config.recipe import OptimizerSection
from mathgrpo.optim.master_adamw import MasterAdamW, make_compute_copies, master_of
from mathgrpo.update.layout_trial import unshared_reason


def build_optimizer(
    model: nn.Module, section: OptimizerSection, compute_dtype: torch.dtype = torch.float32, *,
    machinery: Machinery = FAST,
) -> torch.optim.AdamW:  # fmt: skip
    """Return AdamW over every trainable parameter.

    Weight decay is on matrices and embeddings (two dimensions or more), off for norms and biases (one dimension).
    With a compute copy, the layers' matrices of the model are in compute_dtype from here on, and the optimizer owns
    their float32 masters.
    """
    with_copies = _wants_copies(model, machinery, compute_dtype)
    if with_copies:
        unshared_reason(model)  # judged on the float32 weights and remembered: more exact than on 16-bit ones
    copies = make_compute_copies(model, compute_dtype) if with_copies else {}
    masters = {id(copy): master for copy, master in copies.items()}
    trainable = [masters.get(id(parameter), parameter) for _, parameter in trainable_parameters(model)]
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2]
    others = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": section.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not copies:
        return torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas, fused=True)
    return MasterAdamW(groups, copies, lr=section.learning_rate, betas=section.betas)


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and parameter of all that trains, in the model's order; tied weights come once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as named tensors: "<parameter>/exp_avg" and so on; {} before the first step."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in trainable_parameters(model)
        for key, value in optimizer.state.get(master_of(optimizer, parameter), {}).items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Give the optimizer the state that `optimizer_tensors` returned, on the parameters' devices.

    Raises: ValueError when a tensor belongs to no parameter of the model.
    """
    parameters = {name: master_of(optimizer, parameter) for name, parameter in trainable_parameters(model)}
    states: dict[nn.Parameter, dict[str, Any]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise ValueError(f"the optimizer state of {name} belongs to no trainable parameter of this model")
        states.setdefault(parameters[name], {})[key] = tensor.to(parameters[name].device, copy=True)
    for parameter, state in states.items():
        optimizer.state[parameter] = state


def _wants_copies(model: Any, machinery: Machinery, compute_dtype: torch.dtype) -> bool:
    """Return whether the layers' matrices shall be kept in the compute precision: an adapter trains alone, without."""
    possible = compute_dtype != torch.float32 and not hasattr(model, "peft_config")
    on_cuda = next(model.parameters()).device.type == "cuda"
    return possible and machinery.compute_copy != "off" and (on_cuda or machinery.compute_copy == "on")
