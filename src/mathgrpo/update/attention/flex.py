"""Packed attention through FlexAttention: one call, one block mask; compiled on CUDA, where it has a backward pass.

Row q attends to the rows kv with prompt_start[q] <= kv < prompt_end[q], its prompt, and segment_start[q] <= kv <= q,
its own segment up to itself. For a prompt row the first range is empty. The block mask (which 128 x 128 tiles are
empty, full or mixed) is counted from these ranges, without ever making the T x T mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mathgrpo.hardware.upload import upload
from mathgrpo.update.attention.varlen import in_compute_precision

# Shape legend: T packed rows, W rows rounded up to tiles, B tiles, H query heads, K key-value heads, D head size.

TILE = 128
"""Side of a tile of the block mask: FlexAttention's own default."""


@dataclass(frozen=True, slots=True)
class FlexMask:
    """Packed rows as a FlexAttention block mask (torch.nn.attention.flex_attention.BlockMask)."""

    block_mask: Any

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Return packed attention outputs: query [T, H, D], key and value [T, K, D] -> [T, H, D]."""
        query, key, value = (states.transpose(0, 1).unsqueeze(0) for states in in_compute_precision(query, key, value))
        output: Tensor = _flex(query.device.type)(
            query, key, value, block_mask=self.block_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return output[0].transpose(0, 1)


def flex_mask(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int, int]], num_rows: int,
    device: torch.device | str,
) -> FlexMask:  # fmt: skip
    """Return the block mask of a packed row (see `packed_layout`). Every padding row attends to itself alone."""
    from torch.nn.attention.flex_attention import BlockMask

    prompt_start, prompt_end, segment_start = _ranges(prompts, completions, num_rows, device)

    def visible(batch: Tensor, head: Tensor, row: Tensor, key_row: Tensor) -> Tensor:
        in_prompt = (prompt_start[row] <= key_row) & (key_row < prompt_end[row])
        return in_prompt | ((segment_start[row] <= key_row) & (key_row <= row))

    mixed, full = _tiles(prompt_start, prompt_end, segment_start, num_rows)
    return FlexMask(
        BlockMask.from_kv_blocks(
            *_listed(mixed), *_listed(full), BLOCK_SIZE=TILE, mask_mod=visible, seq_lengths=(num_rows, num_rows)
        )
    )


def flex_obstacle(device: torch.device) -> str:
    """Return why FlexAttention cannot train here, or "" when it should."""
    return "" if device.type == "cuda" else "its backward pass needs CUDA"


def _ranges(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int, int]], num_rows: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return (prompt_start, prompt_end, segment_start), each [W] int32, W the rows rounded up to tiles."""
    width = -(-num_rows // TILE) * TILE
    prompt_start, prompt_end = (torch.zeros(width, dtype=torch.int32) for _ in range(2))
    segment_start = torch.arange(width, dtype=torch.int32)
    for start, length in prompts:
        segment_start[start : start + length] = start
    for start, length, prompt in completions:
        segment_start[start : start + length] = start
        prompt_start[start : start + length] = prompts[prompt][0]
        prompt_end[start : start + length] = prompts[prompt][0] + prompts[prompt][1]
    return upload(prompt_start, device), upload(prompt_end, device), upload(segment_start, device)


def _tiles(prompt_start: Tensor, prompt_end: Tensor, segment_start: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return which tiles [B, B] are mixed and which are full, by counting the keys each row sees in each tile."""
    rows = torch.arange(len(segment_start), device=segment_start.device)
    lows = rows[::TILE]
    highs = lows + TILE
    counts = _overlap(prompt_start, prompt_end, lows, highs) + _overlap(segment_start, rows + 1, lows, highs)
    # Rows beyond the last are no reason to look at a tile; a tile that has some is never full.
    counts[num_rows:] = 0
    by_tile = counts.view(len(lows), TILE, len(lows))
    full = by_tile.amin(dim=1) == TILE
    return (by_tile.amax(dim=1) > 0) & ~full, full


def _overlap(starts: Tensor, ends: Tensor, lows: Tensor, highs: Tensor) -> Tensor:
    """Return how many rows of [start, end) lie in [low, high), for every pair: [W, B]."""
    return (torch.minimum(ends[:, None], highs) - torch.maximum(starts[:, None], lows)).clamp_min_(0)


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of chosen tiles in each row of tiles, and their columns first: [1, 1, B], [1, 1, B, B]."""
    columns = torch.argsort(chosen.to(torch.int8), dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32)[None, None], columns.to(torch.int32)[None, None].contiguous()


@cache
def _flex(device_type: str) -> Callable[..., Any]:
    """Return FlexAttention; on CUDA compiled, since only so it skips tiles and keeps no T x T scores."""
    from torch.nn.attention.flex_attention import flex_attention

    function: Any = torch.compile(flex_attention) if device_type == "cuda" else flex_attention
    return function  # type: ignore[no-any-return]
