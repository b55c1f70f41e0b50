"""torch.compile of the parts of a layer that are many small operations: the feed-forward and the norms.

Attention and matrix products have kernels of their own already. The compiled parts see one tensor whose length comes in
buckets, so few shapes are compiled, and all layers share the code. Only the update runs them compiled: rollouts meet
other shapes.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mathgrpo.config.machinery import Machinery
from mathgrpo.update.modes import layers_of

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
def compiled_parts(model: Any, active: bool) -> Iterator[None]:
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
