"""The weight that a module computes with, wherever it lies."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mathgrpo.models.adapter_layers import NotServed, inner_module, inner_weight
from mathgrpo.models.policy import is_linear4bit

__all__ = ["NotServed", "effective_weight", "plain_module"]


def effective_weight(module: Any) -> Tensor:
    """Return a module's own weight, an adapter's merged into a copy or the one it chooses; a 4-bit one is written out.

    Raises: NotServed for a wrapper that is not known.
    """
    weight: Tensor | None = module._parameters.get("weight")
    return inner_weight(module) if weight is None or is_linear4bit(module) else weight


def plain_module(module: Any) -> Any:
    """Return the plain module inside a known wrapper, whose sizes and bias hold, or the module itself."""
    return module if "weight" in module._parameters else inner_module(module)
