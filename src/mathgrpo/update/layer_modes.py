"""How an update may run a model's layers: computed again for the backward pass, or compiled."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mathgrpo.config.machinery import Machinery


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


REPAID_AFTER = 20_000_000
"""Sampled tokens of a run from which "auto" compiles on CUDA. An estimate: about a minute of compiling against a few
per cent of 10 minutes of updates. Not measured yet."""


_compiled: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()


def compile_pays(machinery: Machinery, device: str, sampled_tokens: int) -> bool:
    """Return whether an update's layers are compiled, by the tokens the whole run samples at most."""
    if machinery.compile != "auto":
        return machinery.compile == "on"
    return device.startswith("cuda") and sampled_tokens >= REPAID_AFTER


@contextlib.contextmanager
def compiled_parts(model: Any, active: bool = True) -> Iterator[None]:
    """Run feed-forwards and norms of the model's layers compiled inside the block."""
    parts = parts_of(model) if active else []
    for part in parts:
        if part not in _compiled:
            _compiled[part] = torch.compile(part._call_impl)
        part._compiled_call_impl = _compiled[part]
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None


def parts_of(model: Any) -> list[nn.Module]:
    """Return the modules that are compiled: in each layer, `mlp` and every norm."""
    return [
        part
        for layer in layers_of(model)
        for name, part in layer.named_modules()
        if name == "mlp" or "norm" in type(part).__name__.lower()
    ]
