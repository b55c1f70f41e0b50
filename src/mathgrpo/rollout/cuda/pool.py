"""Keys and values of every token in flight, in one flat memory at a fixed address.

A prompt is a range of tokens, held once for all its completions; a completion is a range of max_new_tokens. Where a
range starts and how long it is are numbers in device tensors, so the batch can change without moving any memory and
without a new graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

DUMMY = 0
"""The token that rows without a place of their own write to."""

_ROUNDING = 4096
"""Capacities are multiples of this many tokens: calls of slightly different size share one memory."""
_SPARE = 8
"""A pool that grows takes an eighth more than it was asked for, where memory allows."""


class TokenPool:
    """Keys and values, [2, layers, KV heads, tokens, head_dim]; token 0 is `DUMMY`."""

    def __init__(
        self, num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._shape = (2, num_layers, num_kv_heads, 0, head_dim)
        self._memory = torch.zeros(self._shape, dtype=dtype, device=device)
        self.ranges = Ranges(0)

    @property
    def capacity(self) -> int:
        """Tokens the pool holds."""
        return self._memory.shape[3]

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token's keys and values over all layers."""
        layers, heads, dim = self._shape[1], self._shape[2], self._shape[4]
        return 2 * layers * heads * dim * self._memory.element_size()

    def keys(self, layer: int) -> Tensor:
        """Return a layer's keys, [KV, tokens, D]."""
        return self._memory[0, layer]

    def values(self, layer: int) -> Tensor:
        """Return a layer's values, [KV, tokens, D]."""
        return self._memory[1, layer]

    def reserve(self, num_tokens: int, at_least: int) -> bool:
        """Empty the pool and make room for num_tokens, or as many as memory allows but at_least; return if it moved.

        Raises: torch.cuda.OutOfMemoryError when at_least does not fit.
        """
        most = max(at_least, self._affordable())
        wanted = _round_up(min(num_tokens, most) + 1)
        moved = wanted > self.capacity
        if moved:
            # More than is needed now: prompts differ from step to step, and growing costs every captured graph.
            wanted = max(wanted, _round_up(min(num_tokens + num_tokens // _SPARE, most) + 1))
            like = self._memory.new_empty(0)
            self._memory = like  # the old memory is given back before the new is asked for
            self._memory = like.new_zeros((*self._shape[:3], wanted, self._shape[4]))
        self.ranges = Ranges(self.capacity)
        return moved

    def _affordable(self) -> int:
        """Return the tokens that fit a quarter of the device, or half of what is free: training needs the rest."""
        if not self._memory.is_cuda:
            return 1 << 40
        device = self._memory.device
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free += self.capacity * self.bytes_per_token
        return min(total // 4, free // 2) // self.bytes_per_token


def _round_up(num_tokens: int) -> int:
    return -(-num_tokens // _ROUNDING) * _ROUNDING


@dataclass
class Ranges:
    """Which tokens of a pool are taken. Token 0 never is given out.

    Example:
        >>> ranges = Ranges(10)
        >>> ranges.take(4), ranges.take(4), ranges.take(4)
        (1, 5, None)
        >>> ranges.give_back(1, 4); ranges.take(3)
        1
    """

    capacity: int
    _free: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = [(1, self.capacity)] if self.capacity > 1 else []

    def take(self, num_tokens: int, *, from_end: bool = False) -> int | None:
        """Return the start of a free range of this length, or None when there is none.

        Completions are taken from the beginning and prompts from the end, so that the equal ranges of completions
        stay together and fit each other's places.
        """
        order = range(len(self._free) - 1, -1, -1) if from_end else range(len(self._free))
        for index in order:
            start, stop = self._free[index]
            if stop - start < num_tokens:
                continue
            taken = stop - num_tokens if from_end else start
            left = (start, taken) if from_end else (start + num_tokens, stop)
            self._free[index : index + 1] = [left] if left[0] < left[1] else []
            return taken
        return None

    def give_back(self, start: int, num_tokens: int) -> None:
        """Free a range that was taken."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._free, (start, start + num_tokens)]):
            if merged and merged[-1][1] == low:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = merged
