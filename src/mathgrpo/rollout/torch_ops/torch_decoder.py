"""Decoding Qwen2 / Qwen3 / Llama models with few, large operations, each prompt's keys and values held once.

A step of a small model is a chain of tiny operations: what costs is how many there are and how often the same
memory is read. So projections are fused, and attention runs in two parts that share one softmax: all rows of a
group against their common prompt (one matrix product a prompt), each row against its own completion.

Shapes: R rows, P prompts in use, G rows of a prompt at most, KV key-value heads, E query heads for each of them,
D head_dim, L prompt length, T completion length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.hardware.cuda_care import upload
from mathgrpo.models import Policy
from mathgrpo.models.qwen_view import QwenView, ViewLayer
from mathgrpo.rollout.decoder import Decoder, in_batches, laid_out
from mathgrpo.rollout.torch_ops.torch_memory import RowMemory

_PREFILL_TOKENS = 8192
"""Padded prompt tokens computed at once: bounds the memory of activations."""


def fused_decoder(policy: Policy, *, frozen: bool = False) -> Decoder:
    """Return the decoder for the models `why_not_served` lets pass; precision is explicit in the fused weights.

    frozen: the weights no longer change, so they are fused once, not anew for each session.
    """
    view = laid_out(partial(QwenView, policy.causal_lm, policy.compute_dtype), frozen=frozen)

    def open_session(*, max_rows: int, positions: int) -> FusedSession:
        return FusedSession(view(positions), max_rows=max_rows, positions=positions)

    return Decoder("fused decoder", torch.inference_mode, open_session)


class FusedSession(RowMemory):
    """A `Session` of the fused decoder: the memory of its rows, and what computes on it."""

    def __init__(self, model: QwenView, *, max_rows: int, positions: int) -> None:
        super().__init__(model, max_rows=max_rows, positions=positions)
        self._model = model

    def prefill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """Compute prompts (number -> ids) once, in batches of similar length; return next-token logits, [n, V]."""
        numbers, lengths = list(prompts), [len(ids) for ids in prompts.values()]
        self.widen(max(lengths))
        return in_batches(
            lengths,
            _PREFILL_TOKENS,
            lambda batch: self._prefill_batch({numbers[i]: prompts[numbers[i]] for i in batch}),
        )

    def _prefill_batch(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        sequences = list(prompts.values())
        slots = self.new_prompts(list(prompts), [len(ids) for ids in sequences])

        def write(layer: int, k: Tensor, v: Tensor) -> None:
            self.write_prompts(layer, slots, k.transpose(1, 2), v.transpose(1, 2))

        return prefill_batch(self._model, sequences, write).float()

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row; return next-token logits, [R, V]."""
        model, positions = self._model, self.begin_step()
        x = F.embedding(tokens, model.embedding)
        cos, sin = model.cos.index_select(0, positions), model.sin.index_select(0, positions)
        for index, layer in enumerate(model.layers):
            q, k, v = _project(model, layer, x, cos, sin)
            self.write_step(index, k, v)
            x = _finish(model, layer, x, self.attend(index, q))
        self.end_step()
        return _logits(model, x)


def prefill_batch(
    model: QwenView, sequences: Sequence[Sequence[int]], write: Callable[[int, Tensor, Tensor], None]
) -> Tensor:
    """Run right-padded prompts; return the logits behind their last tokens, [n, V].

    Under a causal mask, padding behind a prompt cannot be seen by it. write(layer, k, v) keeps keys and values, each
    [n, longest length, KV, D].
    """
    device, count, lengths = model.embedding.device, len(sequences), [len(ids) for ids in sequences]
    width = max(lengths)
    ids = upload([[*ids, *([0] * (width - len(ids)))] for ids in sequences], device)
    x = F.embedding(ids.flatten(), model.embedding)
    cos, sin = (table[:width].repeat(count, 1, 1) for table in (model.cos, model.sin))
    for index, layer in enumerate(model.layers):
        q, k, v = (t.view(count, width, -1, model.head_dim) for t in _project(model, layer, x, cos, sin))
        write(index, k, v)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = _finish(model, layer, x, attended.transpose(1, 2).reshape(len(x), -1))
    last = upload([i * width + n - 1 for i, n in enumerate(lengths)], device)
    return _logits(model, x.index_select(0, last))


def _project(model: QwenView, layer: ViewLayer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries [N, H, D], rotated keys and values [N, KV, D] of N tokens."""
    h = F.rms_norm(x, x.shape[-1:], layer.input_norm, model.eps).to(model.dtype)
    return rotated(F.linear(h, *layer.qkv), layer.head_norm, model, cos, sin)


def rotated(
    qkv: Tensor, head_norm: Tensor | None, model: QwenView, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries [N, H, D], rotated keys and values [N, KV, D] of a fused projection [N, (H + 2 KV) D]."""
    heads, kv_heads, dim = model.num_heads, model.num_kv_heads, model.head_dim
    parts = qkv.view(len(qkv), heads + 2 * kv_heads, dim)
    qk, v = parts[:, : heads + kv_heads], parts[:, heads + kv_heads :]
    if head_norm is not None:
        qk = F.rms_norm(qk, (dim,), None, model.eps) * head_norm
    half = dim // 2
    swapped = torch.cat((qk[..., half:], qk[..., :half]), dim=-1)
    turned = (qk * cos).addcmul_(swapped, sin).to(model.dtype)
    return turned[:, :heads], turned[:, heads:], v


def _finish(model: QwenView, layer: ViewLayer, x: Tensor, attended: Tensor) -> Tensor:
    """Return the block's output from its input, which it may overwrite, and its attention output.

    The residual keeps the embedding's precision, as in the model under autocast.
    """
    x = _add_linear(x, attended, layer.output)
    h = F.rms_norm(x, x.shape[-1:], layer.mlp_norm, model.eps).to(model.dtype)
    gate, up = F.linear(h, *layer.gate_up).chunk(2, dim=-1)
    return _add_linear(x, F.silu(gate).mul_(up), layer.down)


def _add_linear(x: Tensor, inputs: Tensor, matrix: tuple[Tensor, Tensor | None]) -> Tensor:
    """Return x + inputs W^T + b; x itself takes the sum where the precisions agree (it is the caller's own)."""
    weight, bias = matrix
    if x.dtype != weight.dtype:
        return x + F.linear(inputs, weight, bias)
    x = x.addmm_(inputs, weight.t())
    return x if bias is None else x.add_(bias)


def _logits(model: QwenView, x: Tensor) -> Tensor:
    h = F.rms_norm(x, x.shape[-1:], model.norm, model.eps).to(model.dtype)
    return F.linear(h, *model.head)
