"""How many weights an update really changed: 16-bit masters lose small updates, and this shows it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE_SIZE = 1 << 20
"""Weights looked at, about, spread evenly over each parameter."""


def weight_sample(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of about SAMPLE_SIZE weights, or of all if there are fewer."""
    stride = max(1, sum(parameter.numel() for parameter in parameters) // SAMPLE_SIZE)
    return [parameter.detach().flatten()[::stride].clone() for parameter in parameters]


def moved_fraction(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the share of the sampled weights whose value is another one, 0 to 1."""
    moved = [(old != new).sum() for old, new in zip(before, after, strict=True)]
    return float(torch.stack(moved).sum()) / max(1, sum(old.numel() for old in before))
