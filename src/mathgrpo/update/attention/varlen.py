"""Packed attention in one call of the flash attention bundled with torch: CUDA, 16 bits."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class VarlenSegments:
    """Packed rows as segments of queries, each with its keys.

    Attributes:
        key_rows: [S] packed row of each key, segment after segment.
        query_ends, key_ends: [B + 1] int32, where each segment's queries and keys end; the first entry is 0.
        longest_query, longest_key: of one segment.
        longest: longest context, prompt and completion together.
    """

    key_rows: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int
    longest: int

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None = None
    ) -> Tensor:
        """Return packed attention outputs: query [T, H, D], key and value [T, K, D] -> [T, H, D].

        window: how many tokens of its sequence each sees, itself included; None: all.
        """
        query, key, value = in_compute_precision(query, key, value)
        keys, values = (_SharedRows.apply(states, self.key_rows) for states in (key, value))  # type: ignore[no-untyped-call]
        return causal_varlen(
            query.contiguous(), keys, values, self.query_ends, self.key_ends, self.longest_query, self.longest_key,
            scaling, window,
        )  # fmt: skip


def varlen_segments(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int, int]], num_rows: int, longest: int
) -> VarlenSegments:
    """Return the segments of a packed row (see `packed_layout`). Padding is a segment of its own.

    Example: a prompt of 3 rows and completions of 2 and 1 make segments of 3, 2, 1 queries with 3, 5, 4 keys.
    """
    segments = [(start, length, (0, 0)) for start, length in prompts]
    segments += [(start, length, prompts[prompt]) for start, length, prompt in completions]
    segments = sorted(segment for segment in segments if segment[1])
    used = segments[-1][0] + segments[-1][1]
    if used < num_rows:
        segments.append((used, num_rows - used, (0, 0)))
    query_lengths = [length for _, length, _ in segments]
    key_lengths = [length + shared for _, length, (_, shared) in segments]
    spans = [span for start, length, prefix in segments for span in (prefix, (start, length))]
    return VarlenSegments(
        key_rows=torch.cat([torch.arange(start, start + length) for start, length in spans]),
        query_ends=_ends(query_lengths),
        key_ends=_ends(key_lengths),
        longest_query=max(query_lengths),
        longest_key=max(key_lengths),
        longest=longest,
    )


def causal_varlen(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor,
    longest_query: int, longest_key: int, scaling: float | None, window: int | None = None,
) -> Tensor:  # fmt: skip
    """Return flash attention of segments, causal towards the lower right corner: query [T, H, D] -> [T, H, D].

    Shapes: key and value [S, K, D]; query_ends and key_ends [B + 1]. window: as in `VarlenSegments.attend`.
    """
    from torch.nn.attention.varlen import varlen_attn

    # The kernel counts the keys before a query's own; -1: all of them.
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1 if window is None else window - 1, 0)}
    # The kernel itself serves fewer key-value heads; from torch 2.12 on it wants to be told.
    if query.shape[1] != key.shape[1] and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"] = True
    output: Tensor = varlen_attn(query, key, value, query_ends, key_ends, longest_query, longest_key, **options)  # type: ignore[assignment]
    return output


def varlen_obstacle(device: torch.device, dtype: torch.dtype) -> str:
    """Return why variable-length flash attention cannot run, or "" when it should."""
    if device.type != "cuda":
        return "it needs CUDA"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it needs 16-bit numbers, not {str(dtype).removeprefix('torch.')}"
    return ""


def in_compute_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors as autocast would cast them; it knows scaled_dot_product_attention, not these kernels."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(tensor.to(dtype) if tensor.dtype != torch.float64 else tensor for tensor in tensors)


class _SharedRows(torch.autograd.Function):
    """Rows that are read several times; their gradients are summed in float32 and rounded once."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = states.shape[0]
        return states.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        precise = torch.promote_types(grad.dtype, torch.float32)
        total = torch.zeros(ctx.num_rows, *grad.shape[1:], dtype=precise, device=grad.device)
        return total.index_add_(0, rows, grad.to(precise)).to(grad.dtype), None


def _ends(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
