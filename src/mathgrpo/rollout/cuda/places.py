"""The batch as the device sees it: one place for each row, in tensors at fixed addresses.

A step reads and advances these tensors without the host. The host changes who is in which place by one small copy;
keys and values never move.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mathgrpo.hardware.cuda_care import upload

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""The batch sizes there are graphs for: a batch runs in the next larger one."""

_SHORTEST_REACH = 64

NEW, EMPTY = -1, -2
"""Where a place's row comes from, when it is not an old place: newly admitted, or nowhere."""

_HOST_FIELDS = ("keys", "slots", "prompt_starts", "prompt_lengths", "out_starts", "tile_first", "tile_rows")
_DEVICE_FIELDS = ("tokens", "ages", "done")


@dataclass(frozen=True, slots=True)
class Row:
    """A completion in flight, as the host knows it.

    Attributes:
        index: its number in the call, prompt by prompt.
        key: its noise key.
        slot: pool token of its first completion column.
        prompt: the number of its prompt.
        prompt_start, prompt_length: the prompt's range in the pool.
        out_start: where its first token goes in `Places.ids`.
    """

    index: int
    key: int
    slot: int
    prompt: int
    prompt_start: int
    prompt_length: int
    out_start: int


@dataclass(frozen=True, slots=True)
class Places:
    """State of R places; every field is int64[R] unless said otherwise.

    Attributes:
        tokens: the last sampled token.
        ages: tokens sampled so far; an empty place has 1, so that it attends to the dummy token.
        done: 1 for a row that has ended, and for an empty place.
        keys: noise keys.
        slots, prompt_starts, prompt_lengths, out_starts: as in `Row`.
        tile_first, tile_rows: rows of one prompt in adjacent places, as many as a kernel's tile holds; 0 rows: no tile.
        numbers: 0..R-1.
        ids: int64[1 + outputs], logprobs: float32[1 + outputs]: what was sampled; entry 0 is a dummy.
        limit: int64[1], max_new_tokens.
        eos: int64[power of two], the end ids, filled up with -1.
    """

    tokens: Tensor
    ages: Tensor
    done: Tensor
    keys: Tensor
    slots: Tensor
    prompt_starts: Tensor
    prompt_lengths: Tensor
    out_starts: Tensor
    tile_first: Tensor
    tile_rows: Tensor
    numbers: Tensor
    ids: Tensor
    logprobs: Tensor
    limit: Tensor
    eos: Tensor


class PlaceTable:
    """The memory behind `Places`."""

    def __init__(self, eos_ids: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._host_fields = torch.zeros(len(_HOST_FIELDS), BUCKETS[-1], dtype=torch.int64, device=device)
        self._device_fields = torch.zeros(len(_DEVICE_FIELDS), BUCKETS[-1], dtype=torch.int64, device=device)
        self._numbers = torch.arange(BUCKETS[-1], device=device)
        self._limit = torch.zeros(1, dtype=torch.int64, device=device)
        size = 1 << max(0, len(eos_ids) - 1).bit_length()
        self._eos = torch.tensor([*eos_ids, *([-1] * (size - len(eos_ids)))], dtype=torch.int64, device=device)
        self._ids = torch.zeros(0, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(0, device=device)

    def reserve(self, num_outputs: int, max_new_tokens: int) -> bool:
        """Set what holds for one call; return whether an address changed."""
        self._limit.fill_(max_new_tokens)
        moved = num_outputs + 1 > len(self._ids)
        if moved:
            size = 1 << num_outputs.bit_length()
            self._ids = torch.zeros(size, dtype=torch.int64, device=self._device)
            self._logprobs = torch.zeros(size, device=self._device)
        return moved

    def view(self, num_places: int) -> Places:
        """Return the first places."""
        host = {name: self._host_fields[i, :num_places] for i, name in enumerate(_HOST_FIELDS)}
        device = {name: self._device_fields[i, :num_places] for i, name in enumerate(_DEVICE_FIELDS)}
        return Places(
            **host,
            **device,
            numbers=self._numbers[:num_places],
            ids=self._ids,
            logprobs=self._logprobs,
            limit=self._limit,
            eos=self._eos,
        )

    def load(self, rows: Sequence[Row], sources: Sequence[int], num_places: int, tile_rows: int) -> None:
        """Put rows into the first places, in order; the rest of num_places becomes empty.

        sources: for each row the place it was in, or `NEW`. Rows of one prompt must be adjacent.
        """
        table = torch.zeros(len(_HOST_FIELDS) + 1, num_places, dtype=torch.int64)
        columns = [[r.key, r.slot, r.prompt_start, r.prompt_length, r.out_start] for r in rows]
        if rows:
            table[:5, : len(rows)] = torch.tensor(columns, dtype=torch.int64).T
        tiles = tiles_of([row.prompt for row in rows], tile_rows)
        if tiles:
            table[5:7, : len(tiles)] = torch.tensor(tiles, dtype=torch.int64).T
        table[7] = EMPTY
        table[7, : len(rows)] = torch.tensor(list(sources), dtype=torch.int64)
        table = upload(table, self._device)
        source = table[7]
        self._host_fields[:, :num_places] = table[:7]
        kept = self._device_fields[:, source.clamp(min=0)]
        empty = (source == EMPTY).long()
        fresh = torch.stack((torch.zeros_like(empty), empty, empty))
        self._device_fields[:, :num_places] = torch.where(source >= 0, kept, fresh)


def tiles_of(prompts: Sequence[int], tile_rows: int) -> list[tuple[int, int]]:
    """Return (first place, rows) of the tiles: runs of one prompt, cut at tile_rows.

    Example:
        >>> tiles_of([4, 4, 4, 9], 2)
        [(0, 2), (2, 1), (3, 1)]
    """
    tiles: list[tuple[int, int]] = []
    for place, prompt in enumerate(prompts):
        if tiles and prompts[place - 1] == prompt and tiles[-1][1] < tile_rows:
            tiles[-1] = (tiles[-1][0], tiles[-1][1] + 1)
        else:
            tiles.append((place, 1))
    return tiles


def bucket_of(num_rows: int) -> int:
    """Return the smallest bucket that holds this many rows (1 to 1,024).

    Example:
        >>> bucket_of(1), bucket_of(17), bucket_of(512)
        (1, 24, 512)
    """
    return BUCKETS[bisect_left(BUCKETS, num_rows)]


def reach_of(num_tokens: int) -> int:
    """Return the number of columns, a power of two from 64, that attention written in torch looks at.

    Example:
        >>> reach_of(1), reach_of(64), reach_of(65)
        (64, 64, 128)
    """
    return max(_SHORTEST_REACH, 1 << (num_tokens - 1).bit_length())


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
