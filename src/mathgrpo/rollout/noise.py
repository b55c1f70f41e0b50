"""Counted randomness: each uniform number is a function of (seed, problem, sample, position) and of nothing else.

A stream of random numbers would tie the draw to the order of the rows; a hash of counters does not, so a completion
is the same whatever the batch, its size, or the step a run was resumed at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def row_keys(seed: int, problem_keys: Sequence[int], samples: Sequence[int]) -> Tensor:
    """Return one 64-bit stream key for each (problem, sample) pair.

    Shapes: int64[R] for R pairs.
    """
    problems = torch.tensor(list(problem_keys), dtype=torch.int64)
    draws = torch.tensor(list(samples), dtype=torch.int64)
    start = _mix(torch.tensor([seed], dtype=torch.int64) + _GOLDEN)
    return _mix(_mix(start ^ problems) ^ draws)


def uniforms(keys: Tensor, positions: Tensor) -> Tensor:
    """Return the uniform number of each row at a position: in [0, 1), a multiple of 2^-53.

    Shapes: keys int64[R], positions int64[R] -> float64[R]; other shapes broadcast.
    Source: SplitMix64 (Steele, Lea, Flood 2014), addressed by counter instead of stepped.
    """
    bits = _mix(keys + (positions + 1) * _GOLDEN)
    return _shift(bits, 11).double() * 2.0**-53


def _mix(z: Tensor) -> Tensor:
    """Return SplitMix64's finaliser: a bijection on 64 bits in which every input bit flips half of the output."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Return a logical right shift; torch shifts int64 arithmetically, so the sign's copies are cut off."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
