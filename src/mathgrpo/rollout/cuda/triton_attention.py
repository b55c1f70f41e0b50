"""Decode attention that reads each prompt once for all rows of its group.

Two kernels share one softmax. The first takes a tile of rows of one prompt, with all their query heads, against the
prompt's keys and values; the second takes each row against its own completion and merges both by their log-sum-exp.
Starts and lengths are read from device tensors, so a captured graph stays valid as rows come, grow and go.

Shapes: R places, H query heads, KV key-value heads, D head_dim, N tokens in the pool, P and O splits of prompts and
completions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mathgrpo.rollout.cuda.places import Places

_TILE = 64
"""Rows times query heads in a tile: one tensor-core tile."""
_TILE_BYTES = 128
"""Width of a block of keys: 64 keys in 16 bits, 32 in 32 bits, so that shared memory suffices on consumer cards."""
_PROGRAMS = 256
"""Ranges are split until there are about as many programs as an accelerator runs at once."""
_MOST_SPLITS = 8


@dataclass(frozen=True, slots=True)
class Workspace:
    """Unfinished attention by range, float32: sums of values [P + O, R, H, D], score maxima, weights [P + O, R, H]."""

    sums: Tensor
    tops: Tensor
    totals: Tensor
    prompt_splits: int
    own_splits: int


def tile_rows(share: int) -> int:
    """Return how many rows fit a tile, with `share` query heads to a key-value head."""
    return max(1, _TILE // share)


def workspace(num_rows: int, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device) -> Workspace:
    """Return the memory all layers of one step share."""
    splits = min(_MOST_SPLITS, triton.cdiv(_PROGRAMS, num_rows * num_kv_heads))
    splits = 1 << (splits.bit_length() - 1)  # each number is compiled for by itself: few of them
    ranges = splits + (splits if splits > 1 else 0)
    sums = torch.empty(ranges, num_rows, num_heads, head_dim, dtype=torch.float32, device=device)
    tops = torch.empty(ranges, num_rows, num_heads, dtype=torch.float32, device=device)
    return Workspace(sums, tops, torch.empty_like(tops), splits, splits)


def attend(q: Tensor, keys: Tensor, values: Tensor, places: Places, work: Workspace) -> Tensor:
    """Return the attention of q [R, H, D] over prompts and completions in the pool [KV, N, D], [R, H D]."""
    num_rows, num_heads, dim = q.shape
    num_kv = keys.shape[0]
    share = num_heads // num_kv
    out = torch.empty(num_rows, num_heads * dim, dtype=q.dtype, device=q.device)
    sizes = {
        "SHARE": share,
        "HEADS": num_heads,
        "DIM": dim,
        "COLUMNS": _TILE_BYTES // q.element_size(),
        "BLOCK_D": max(16, triton.next_power_of_2(dim)),
        "PROMPT_SPLITS": work.prompt_splits,
        "OWN_SPLITS": work.own_splits,
    }
    parts = (work.sums, work.tops, work.totals)
    scale = dim**-0.5
    _attend_prompts[(num_rows, num_kv, work.prompt_splits)](
        q,
        keys,
        values,
        keys.stride(0),
        places.prompt_starts,
        places.prompt_lengths,
        places.tile_first,
        places.tile_rows,
        *parts,
        num_rows,
        scale,
        TILE=max(_TILE, triton.next_power_of_2(share)),
        **sizes,
    )
    _attend_own[(num_rows, num_kv, work.own_splits)](
        q,
        keys,
        values,
        keys.stride(0),
        places.slots,
        places.ages,
        places.prompt_lengths,
        *parts,
        out,
        num_rows,
        scale,
        TILE=max(16, triton.next_power_of_2(share)),
        **sizes,
    )
    if work.own_splits > 1:
        _merge_splits(work, places, out, num_heads, dim)
    return out


def _merge_splits(work: Workspace, places: Places, out: Tensor, num_heads: int, dim: int) -> None:
    splits = work.prompt_splits + work.own_splits
    _merge[(len(out), num_heads)](
        work.sums,
        work.tops,
        work.totals,
        places.prompt_lengths,
        out,
        len(out),
        HEADS=num_heads,
        DIM=dim,
        BLOCK_D=max(16, triton.next_power_of_2(dim)),
        PROMPT_SPLITS=work.prompt_splits,
        SPLITS=splits,
        BLOCK_S=triton.next_power_of_2(splits),
    )


@triton.jit
def _attend_range(
    q,
    keys,
    values,
    low,
    high,
    scale,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
):
    """Return the sums, maxima and weights of queries [TILE, BLOCK_D] over the pool's tokens low..high."""
    d = tl.arange(0, BLOCK_D)
    top = tl.full((TILE,), -float("inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, BLOCK_D), tl.float32)
    for column in range(low, high, COLUMNS):
        token = column + tl.arange(0, COLUMNS)
        at = token[:, None] * DIM + d[None, :]
        inside = (token[:, None] < high) & (d[None, :] < DIM)
        k = tl.load(keys + at, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(token[None, :] < high, scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(top - higher)
        v = tl.load(values + at, mask=inside, other=0.0)
        total = total * fade + tl.sum(weights, 1)
        sums = sums * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    return sums, top, total


@triton.jit
def _split(start, length, split, SPLITS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the part of tokens start..start + length that is split number `split`; it may be empty."""
    size = tl.cdiv(tl.cdiv(length, SPLITS), COLUMNS) * COLUMNS
    return start + split * size, tl.minimum(start + (split + 1) * size, start + length)


@triton.jit(do_not_specialize=["num_rows"])
def _attend_prompts(
    q,
    keys,
    values,
    head_stride,
    prompt_starts,
    prompt_lengths,
    tile_first,
    tile_rows,
    sums,
    tops,
    totals,
    num_rows,
    scale,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PROMPT_SPLITS: tl.constexpr,
    OWN_SPLITS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Program per (tile, KV head, split): all rows of the tile, with all their query heads, against their prompt."""
    tile, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(tile_rows + tile)
    if count == 0:
        return
    first = tl.load(tile_first + tile)
    low, high = _split(tl.load(prompt_starts + first), tl.load(prompt_lengths + first), split, PROMPT_SPLITS, COLUMNS)
    member = tl.arange(0, TILE)
    real = member < count * SHARE
    line = (first + member // SHARE) * HEADS + kv * SHARE + member % SHARE
    d = tl.arange(0, BLOCK_D)
    inside = real[:, None] & (d[None, :] < DIM)
    queries = tl.load(q + line[:, None] * DIM + d[None, :], mask=inside, other=0.0)
    shift = kv.to(tl.int64) * head_stride
    part, top, total = _attend_range(
        queries, keys + shift, values + shift, low, high, scale, DIM, COLUMNS, BLOCK_D, TILE
    )
    line += split * num_rows * HEADS
    tl.store(tops + line, top, mask=real)
    tl.store(totals + line, total, mask=real)
    tl.store(sums + line[:, None] * DIM + d[None, :], part, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _attend_own(
    q,
    keys,
    values,
    head_stride,
    slots,
    ages,
    prompt_lengths,
    sums,
    tops,
    totals,
    out,
    num_rows,
    scale,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PROMPT_SPLITS: tl.constexpr,
    OWN_SPLITS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Program per (row, KV head, split): the row against its completion; with one split, merged with its prompt."""
    row, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    low, high = _split(tl.load(slots + row), tl.load(ages + row), split, OWN_SPLITS, COLUMNS)
    member = tl.arange(0, TILE)
    real = member < SHARE
    line = row * HEADS + kv * SHARE + member
    d = tl.arange(0, BLOCK_D)
    inside = real[:, None] & (d[None, :] < DIM)
    queries = tl.load(q + line[:, None] * DIM + d[None, :], mask=inside, other=0.0)
    shift = kv.to(tl.int64) * head_stride
    part, top, total = _attend_range(
        queries, keys + shift, values + shift, low, high, scale, DIM, COLUMNS, BLOCK_D, TILE
    )
    if OWN_SPLITS > 1:
        line += (PROMPT_SPLITS + split) * num_rows * HEADS
        tl.store(tops + line, top, mask=real)
        tl.store(totals + line, total, mask=real)
        tl.store(sums + line[:, None] * DIM + d[None, :], part, mask=inside)
    else:
        prompted = real & (tl.load(prompt_lengths + row) > 0)
        other_top = tl.load(tops + line, mask=prompted, other=-float("inf"))
        other_total = tl.load(totals + line, mask=prompted, other=0.0)
        other = tl.load(sums + line[:, None] * DIM + d[None, :], mask=inside & prompted[:, None], other=0.0)
        higher = tl.maximum(top, other_top)
        mine, theirs = tl.exp(top - higher), tl.exp(other_top - higher)
        merged = (part * mine[:, None] + other * theirs[:, None]) / (total * mine + other_total * theirs)[:, None]
        tl.store(out + line[:, None] * DIM + d[None, :], merged.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _merge(
    sums,
    tops,
    totals,
    prompt_lengths,
    out,
    num_rows,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PROMPT_SPLITS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Program per (row, query head): one softmax out of all splits of prompt and completion."""
    row, head = tl.program_id(0), tl.program_id(1)
    split, d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    prompted = tl.load(prompt_lengths + row) > 0
    real = (split < SPLITS) & ((split >= PROMPT_SPLITS) | prompted)
    line = (split * num_rows + row) * HEADS + head
    top = tl.load(tops + line, mask=real, other=-float("inf"))
    share = tl.exp(top - tl.max(top, 0))
    total = tl.sum(tl.load(totals + line, mask=real, other=0.0) * share, 0)
    inside = real[:, None] & (d[None, :] < DIM)
    parts = tl.load(sums + line[:, None] * DIM + d[None, :], mask=inside, other=0.0)
    merged = tl.sum(parts * share[:, None], 0) / total
    tl.store(out + (row * HEADS + head) * DIM + d, merged.to(out.dtype.element_ty), mask=d < DIM)
