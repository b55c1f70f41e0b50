"""The optimizer of a run: AdamW on the float32 masters that train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mathgrpo.config.recipe import OptimizerSection


def build_optimizer(model: nn.Module, section: OptimizerSection) -> torch.optim.AdamW:
    """Return AdamW over every trainable parameter.

    Weight decay is on matrices and embeddings (two dimensions or more), off for norms and biases (one dimension).
    """
    trainable = list(trainable_parameters(model))
    decayed = [parameter for _, parameter in trainable if parameter.ndim >= 2]
    others = [parameter for _, parameter in trainable if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": section.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=section.learning_rate, betas=(section.beta1, section.beta2), fused=True,
    )  # fmt: skip


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and parameter of all that trains, in the model's order; tied weights come once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of the optimizer this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as named tensors: "<parameter>/exp_avg" and so on; {} before the first step."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in trainable_parameters(model)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Give the optimizer the state that `optimizer_tensors` returned, on the parameters' devices.

    Raises: ValueError when a tensor belongs to no parameter of the model.
    """
    parameters = dict(trainable_parameters(model))
    states: dict[nn.Parameter, dict[str, Any]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise ValueError(f"the optimizer state of {name} belongs to no trainable parameter of this model")
        states.setdefault(parameters[name], {})[key] = tensor.to(parameters[name].device, copy=True)
    for parameter, state in states.items():
        optimizer.state[parameter] = state
