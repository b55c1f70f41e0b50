"""Attention of long sequences in tiles that stay in the processor's cache.

A tile is a range of queries of a few sequences. Its keys end with its last query, so most of what the causal mask hides
is never computed, and its scores are gone before main memory sees them: the backward pass computes them again.

Source: the tiling of FlashAttention (arXiv 2205.14135), without its running softmax: a tile has whole rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Shape legend: R sequences of C queries with L keys, the last C of them their own; K key-value heads with E query heads
# each, D head size. Batches are [R * K, ...], queries of a batch [E * C, D].

TILE_QUERIES = 128
"""Queries of a tile: small enough to skip the masked keys, large enough that few different shapes occur."""

TILE_SCORES = 1 << 20
"""Scores that a tile has at most, unless a single sequence has more: 4 MB in float32."""


class Tile(NamedTuple):
    """Sequences [rows_from, rows_to), their queries [first, last), and how many keys the last of these sees."""

    rows_from: int
    rows_to: int
    first: int
    last: int
    num_keys: int


def attend_tiled(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, heads: tuple[int, int], out: Tensor) -> None:
    """Write the attention's output into `out`.

    Shapes: query, out [R * K, E * C, D]; key, value [R * K, L, D]; bias [R, 1, 1, C, L]. heads: (K, E).
    """
    width = bias.shape[-2]
    for tile in _tiles(bias, heads):
        probs = _probabilities(_queries(query, tile, heads, width), key, bias, tile, heads)
        part = torch.bmm(probs, _keys(value, tile, heads))
        _view(out, tile, heads, width).copy_(part.view(len(part), heads[1], -1, part.shape[-1]))


def attend_tiled_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, heads: tuple[int, int], grad_query: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of the queries into `grad_query`; return those of keys and values, [R * K, L, D].

    grad: of the output, [R * K, E * C, D]. The other arguments are those of `attend_tiled`.
    """
    width = bias.shape[-2]
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    for tile in _tiles(bias, heads):
        queries, grads = _queries(query, tile, heads, width), _queries(grad, tile, heads, width)
        keys = _keys(key, tile, heads)
        probs = _probabilities(queries, key, bias, tile, heads)
        _keys(grad_value, tile, heads).baddbmm_(probs.transpose(1, 2), grads)
        grad_probs = torch.bmm(grads, _keys(value, tile, heads).transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
        part = torch.bmm(grad_scores, keys)
        _view(grad_query, tile, heads, width).copy_(part.view(len(part), heads[1], -1, part.shape[-1]))
        _keys(grad_key, tile, heads).baddbmm_(grad_scores.transpose(1, 2), queries)
    return grad_key, grad_value


def _tiles(bias: Tensor, heads: tuple[int, int]) -> Iterator[Tile]:
    rows, (width, length) = bias.shape[0], bias.shape[-2:]
    for first in range(0, width, TILE_QUERIES):
        last = min(first + TILE_QUERIES, width)
        num_keys = length - width + last
        step = max(1, TILE_SCORES // (heads[0] * heads[1] * (last - first) * num_keys))
        for row in range(0, rows, step):
            yield Tile(row, min(row + step, rows), first, last, num_keys)


def _probabilities(queries: Tensor, key: Tensor, bias: Tensor, tile: Tile, heads: tuple[int, int]) -> Tensor:
    scores = torch.bmm(queries, _keys(key, tile, heads).transpose(1, 2))
    visible = bias[tile.rows_from : tile.rows_to, :, :, tile.first : tile.last, : tile.num_keys]
    scores.view(-1, *heads, tile.last - tile.first, tile.num_keys).add_(visible)
    return torch.softmax(scores, dim=-1)


def _keys(states: Tensor, tile: Tile, heads: tuple[int, int]) -> Tensor:
    """Return the view of keys or values [R * K, L, D] that a tile sees."""
    return states[tile.rows_from * heads[0] : tile.rows_to * heads[0], : tile.num_keys]


def _view(states: Tensor, tile: Tile, heads: tuple[int, int], width: int) -> Tensor:
    """Return the view [r * K, E, c, D] of a tile's part of [R * K, E * C, D]."""
    batch = states.view(states.shape[0], heads[1], width, states.shape[-1])
    return batch[tile.rows_from * heads[0] : tile.rows_to * heads[0], :, tile.first : tile.last]


def _queries(states: Tensor, tile: Tile, heads: tuple[int, int], width: int) -> Tensor:
    """Return a tile's queries, or their gradients, as one matrix for each key head: [r * K, E * c, D]."""
    part = _view(states, tile, heads, width)
    return part.reshape(part.shape[0], -1, part.shape[-1])
