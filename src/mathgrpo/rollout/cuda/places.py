"""The batch as the device sees it: one place for each row, in tensors at fixed addresses.

A step reads and advances these tensors without the host. The host changes who is in which place by one small copy;
keys and values never move.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mathgrpo.hardware.upload import upload

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
