"""How a model's modules run in an update: without dropout, and recomputed in the backward pass where memory asks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from mathgrpo.models.policy import resting


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


@contextlib.contextmanager
def recomputed_layers(model: Any, active: bool = True) -> Iterator[None]:
    """Keep only the input of every layer for the backward pass inside the block, which computes the layer again.

    The model's own switch works in training mode only, where dropout would be on too. Forward and backward both belong
    inside, as in `packed_attention`.
    """
    layers = layers_of(model) if active else []
    # On the instance, so that hooks stay outside and the class is untouched; another's forward there is put back.
    own = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def layers_of(model: Any) -> list[nn.Module]:
    """Return the transformer layers of a model, as transformers marks them; [] for an architecture without."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def drops_out(model: Any) -> bool:
    """Return whether the model's forward pass in an update draws random numbers: adapter dropout that is on."""
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Dropout))
    return any("lora_dropout" in name and module.p > 0.0 for name, module in named)
