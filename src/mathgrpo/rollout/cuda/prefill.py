"""Prompts into the pool: each computed once, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.hardware.upload import upload
from mathgrpo.models.qwen_view import QwenView
from mathgrpo.rollout.cuda.pool import TokenPool
from mathgrpo.rollout.length_batches import batches_by_length, in_order
from mathgrpo.rollout.torch_ops.torch_decoder import rotated

_PREFILL_TOKENS = 16384
"""Padded prompt tokens computed at once: bounds the memory of activations."""


def prefill(model: QwenView, pool: TokenPool, prompts: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """Write the prompts' keys and values at these starts; return their next-token logits, [n, V]."""
    batches = batches_by_length([len(prompt) for prompt in prompts], _PREFILL_TOKENS)
    parts = [_prefill_batch(model, pool, [prompts[i] for i in batch], [starts[i] for i in batch]) for batch in batches]
    return in_order(parts, batches)


def _prefill_batch(model: QwenView, pool: TokenPool, prompts: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """Run right-padded prompts: under a causal mask, padding behind a prompt cannot be seen by it."""
    device, dtype, count = model.embedding.device, model.dtype, len(prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    ids = upload([[*prompt, *([0] * (width - len(prompt)))] for prompt in prompts], device)
    real = upload((torch.arange(width) < lengths[:, None]).flatten().nonzero()[:, 0], device)
    targets = upload(torch.cat([torch.arange(s, s + len(p)) for s, p in zip(starts, prompts, strict=True)]), device)
    cos, sin = (table[:width].repeat(count, 1, 1) for table in (model.cos, model.sin))
    x = F.embedding(ids.flatten(), model.embedding)
    for index, layer in enumerate(model.layers):
        h = F.rms_norm(x, x.shape[-1:], layer.input_norm, model.eps).to(dtype)
        q, k, v = rotated(F.linear(h, *layer.qkv), layer.head_norm, model, cos, sin)
        pool.keys(index).index_copy_(1, targets, k[real].transpose(0, 1))
        pool.values(index).index_copy_(1, targets, v[real].transpose(0, 1))
        q, k, v = (t.view(count, width, -1, model.head_dim).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.linear(attended.transpose(1, 2).reshape(len(x), -1), *layer.output)
        h = F.rms_norm(x, x.shape[-1:], layer.mlp_norm, model.eps).to(dtype)
        gate, up = F.linear(h, *layer.gate_up).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate).mul_(up), *layer.down)
    last = upload(torch.arange(count) * width + lengths - 1, device)
    h = F.rms_norm(x.index_select(0, last), x.shape[-1:], model.norm, model.eps).to(dtype)
    return F.linear(h, *model.head)
