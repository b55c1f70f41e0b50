"""The decode step's operations as Triton kernels. Importing this file imports triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda import triton_attention, triton_sampling
from mathgrpo.rollout.cuda.kernels import Reach, TorchKernels
from mathgrpo.rollout.cuda.places import Places
from mathgrpo.types import Sampling

_GATE_BLOCK = 1024


class TritonKernels(TorchKernels):
    """The same in Triton; top-k, top-p and min-p stay in torch, whose sorting they need."""

    name = "Triton kernels"
    fixed_reach = False

    def tile_rows(self, share: int) -> int:
        """Return how many rows of one prompt a tile of the attention kernel holds."""
        return triton_attention.tile_rows(share)

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return the RMS norm of x times weight, in dtype."""
        return _norm(x, None, weight, eps, dtype)

    def add_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return x + delta, written into x, and its norm."""
        return x, _norm(x, delta, weight, eps, dtype)

    def rotate(
        self, qkv: Tensor, head_norm: Tensor | None, model: QwenView, keys: Tensor, values: Tensor, places: Places
    ) -> Tensor:
        """Return rotated queries; write keys and values into the pool, where each row's last token belongs."""
        num_rows, heads, kv, dim = len(qkv), model.num_heads, model.num_kv_heads, model.head_dim
        q = torch.empty(num_rows, heads, dim, dtype=qkv.dtype, device=qkv.device)
        _rotate[(num_rows,)](
            qkv,
            qkv if head_norm is None else head_norm,
            model.cos,
            model.sin,
            q,
            keys,
            values,
            keys.stride(0),
            places.prompt_lengths,
            places.slots,
            places.ages,
            places.done,
            model.eps,
            HEADS=heads,
            KV=kv,
            DIM=dim,
            BLOCK_H=triton.next_power_of_2(heads + 2 * kv),
            BLOCK_D=triton.next_power_of_2(dim),
            NORM=head_norm is not None,
        )
        return q

    def plan(self, model: QwenView, places: Places, reach: Reach) -> triton_attention.Workspace:
        """Return the attention's workspace; lengths are read on the device, so the reach is not needed."""
        device = model.embedding.device
        return triton_attention.workspace(
            len(places.tokens), model.num_heads, model.num_kv_heads, model.head_dim, device
        )

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, places: Places, plan: Any) -> Tensor:
        """Return the attention output; each prompt is read once for all its rows."""
        return triton_attention.attend(q, keys, values, places, plan)

    def gate(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up."""
        num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(num_rows, size, dtype=gate_up.dtype, device=gate_up.device)
        _gate[(num_rows, triton.cdiv(size, _GATE_BLOCK))](gate_up, out, SIZE=size, BLOCK=_GATE_BLOCK)
        return out

    def sample(self, logits: Tensor, rows: Tensor, places: Places, who: Tensor, sampling: Sampling) -> None:
        """Draw, note and advance in one pass over the logits."""
        truncated = sampling.top_p < 1.0 or sampling.min_p > 0.0 or 0 < sampling.top_k < logits.shape[1]
        if sampling.temperature > 0.0 and truncated:
            super().sample(logits, rows, places, who, sampling)
        else:
            triton_sampling.draw(logits, rows, places, who, sampling)


def _norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Add delta to x [R, d] in place, unless it is None; return the RMS norm of the sum times weight, in dtype."""
    num_rows, size = x.shape
    out = torch.empty(num_rows, size, dtype=dtype, device=x.device)
    _add_norm[(num_rows,)](
        x,
        x if delta is None else delta,
        weight,
        out,
        eps,
        SIZE=size,
        BLOCK=triton.next_power_of_2(size),
        ADD=delta is not None,
    )
    return out


@triton.jit
def _add_norm(x, delta, weight, out, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < SIZE
    numbers = tl.load(x + row * SIZE + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        numbers += tl.load(delta + row * SIZE + column, mask=inside, other=0.0).to(tl.float32)
        rounded = numbers.to(x.dtype.element_ty)
        tl.store(x + row * SIZE + column, rounded, mask=inside)
        numbers = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(numbers * numbers, 0) / SIZE + eps)
    normal = (numbers * scale) * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + column, normal.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate(gate_up, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + column, mask=inside, other=0.0).to(tl.float32)
    opened = (gate * tl.sigmoid(gate)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * SIZE + column, (opened * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    qkv,
    head_norm,
    cos,
    sin,
    q,
    keys,
    values,
    head_stride,
    prompt_lengths,
    slots,
    ages,
    done,
    eps,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NORM: tl.constexpr,
):
    """Program per row. Rows that have ended write to token 0, the pool's dummy."""
    row = tl.program_id(0)
    h, d = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_D)[None, :]
    partner = (d + DIM // 2) % DIM
    source = qkv + row * (HEADS + 2 * KV) * DIM + h * DIM
    inside = (h < HEADS + 2 * KV) & (d < DIM)
    plain = tl.load(source + d, mask=inside, other=0.0)
    number = plain.to(tl.float32)
    other = tl.load(source + partner, mask=inside, other=0.0).to(tl.float32)
    is_rotated = (h < HEADS + KV) & (d < DIM)
    if NORM:
        scale = tl.rsqrt(tl.sum(number * number, 1) / DIM + eps)[:, None]
        number = (number * scale).to(plain.dtype).to(tl.float32)
        other = (other * scale).to(plain.dtype).to(tl.float32)
        number *= tl.load(head_norm + h * DIM + d, mask=is_rotated, other=0.0).to(tl.float32)
        other *= tl.load(head_norm + h * DIM + partner, mask=is_rotated, other=0.0).to(tl.float32)
    age = tl.load(ages + row)
    position = tl.load(prompt_lengths + row) + age - 1
    c = tl.load(cos + position * DIM + d, mask=d < DIM, other=0.0).to(tl.float32)
    s = tl.load(sin + position * DIM + d, mask=d < DIM, other=0.0).to(tl.float32)
    turned = (number * c + other * s).to(plain.dtype)
    tl.store(q + (row * HEADS + h) * DIM + d, turned, mask=(h < HEADS) & (d < DIM))
    token = tl.where(tl.load(done + row) == 1, 0, tl.load(slots + row) + age - 1)
    k_at = (h - HEADS) * head_stride + token * DIM + d
    tl.store(keys + k_at, turned, mask=(h >= HEADS) & is_rotated)
    v_at = (h - HEADS - KV) * head_stride + token * DIM + d
    tl.store(values + v_at, plain, mask=(h >= HEADS + KV) & inside)
