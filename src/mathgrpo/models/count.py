"""How many parameters a model has, how many of them train, and how many are kept in 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters of a model by what happens to them; tied weights count once.

    Attributes:
        total: all, adapters included.
        trainable: what the optimizer changes.
        quantized: kept in 4 bits.
    """

    total: int
    trainable: int
    quantized: int


def count_parameters(model: Any) -> ParameterCounts:
    """Return the counts of a model. A 4-bit matrix counts with the numbers it stands for, not with its bytes."""
    parameters = list(model.parameters())
    packed = [parameter for parameter in parameters if is_packed(parameter)]
    return ParameterCounts(
        total=sum(num_weights(parameter) for parameter in parameters),
        trainable=sum(num_weights(parameter) for parameter in parameters if parameter.requires_grad),
        quantized=sum(num_weights(parameter) for parameter in packed),
    )


def num_weights(parameter: Any) -> int:
    """Return how many numbers a parameter stands for."""
    return int(prod(parameter.quant_state.shape) if is_packed(parameter) else parameter.numel())


def is_packed(parameter: Any) -> bool:
    """Return whether a parameter holds 4-bit numbers, two in a byte."""
    return getattr(parameter, "quant_state", None) is not None
