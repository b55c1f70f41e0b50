"""Weights moved for a while: a fresh adapter is the identity, so on it a path that overlooks it passes every trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_SHARE = 0.25
"""How far a weight moves, in units of its tensor's spread."""
_STEP = 0.1
"""How far one moves whose tensor has no spread: zeros, or ones."""


@contextmanager
def moved(model: Any) -> Iterator[None]:
    """Make what trains of a model another one inside the block; after it every bit is as before.

    All trainable weights where some are frozen, as under an adapter; where all train, only vectors (norms and biases,
    which begin as ones and zeros), since the matrices are no identity. The copies to go back to are no more than the
    gradients that an update has of the same weights. The random numbers of the run are not touched.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if all(parameter.requires_grad for parameter in model.parameters()):
        trained = [parameter for parameter in trained if parameter.ndim < 2]
    kept: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for number, parameter in enumerate(trained):
            kept.append((parameter, parameter.data.clone()))
            _move(parameter.data, number)
        yield
    finally:
        for parameter, values in reversed(kept):  # of two that share their memory, the first has what was there
            parameter.data.copy_(values)


def _move(values: torch.Tensor, seed: int) -> None:
    """Add seeded noise in place."""
    noise = torch.empty_like(values).normal_(generator=torch.Generator(values.device).manual_seed(seed))
    spread = float(values.float().std()) if values.numel() > 1 else 0.0
    values.add_(noise, alpha=_SHARE * spread if spread > 0.0 else _STEP)
