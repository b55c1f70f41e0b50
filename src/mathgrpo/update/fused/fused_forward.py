"""The update's own forward pass for Qwen2 / Qwen3 / Llama models, over packed shared-prompt rows.

Same mathematics as the modules' forward, on a view of the model in which the norms' weights and the attention's scale
are folded into few matrices. The view is filled once per optimizer step; the gradients of its matrices are added up in
float32 and handed back to the parameters once. run.engine="plain" computes with the modules.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mathgrpo.hardware.cuda_care import uploaded
from mathgrpo.models.qwen_view import DOWN, GATE_UP, HEAD, OUTPUT, QKV, QwenView, rotary_rows
from mathgrpo.update.fused.fused_attention import build_blocks, probability_elements
from mathgrpo.update.fused.fused_layers import Layer, Matrix, Rows, attention_step, feed_forward_step, final_norm
from mathgrpo.update.pack import MicroBatch


class FusedForward:
    """A forward pass with gradients that arrive at the model's parameters on `finish`."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """model: a causal LM for which `why_not_fused_forward` is "". dtype: precision of matrix products."""
        self._model, self._dtype = model, dtype

    def refresh(self) -> None:
        """Take over the model's weights as they are now, without gradients."""
        self._view = view = QwenView(self._model, self._dtype, folded=True)
        self._head = Matrix(*view.head)
        self._layers = [
            Layer(
                Matrix(*layer.qkv), Matrix(*layer.output), Matrix(*layer.gate_up), Matrix(*layer.down),
                view.eps, layer.head_norm,
            )
            for layer in view.layers
        ]  # fmt: skip

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the final hidden states of the micro-batch's logit rows, [N, F] in the compute precision."""
        body = self._model.model
        x = F.embedding(batch.input_ids[0], body.embed_tokens.weight).float()
        if torch.is_grad_enabled() and not x.requires_grad:
            x.requires_grad_(True)
        rows = self._rows(batch, x)
        for layer in self._layers:
            if getattr(body, "gradient_checkpointing", False) and torch.is_grad_enabled():
                # The layers keep tensors outside autograd's hooks, which only this form lets go of.
                x = checkpoint(_layer_step, x, layer, rows, use_reentrant=True, preserve_rng_state=False)
            else:
                x = _layer_step(x, layer, rows)
        return final_norm(x, batch.logit_rows, body.norm.weight, self._view.eps).to(self._dtype)

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states."""
        logits: Tensor = _Head.apply(hidden, self._head)  # type: ignore[no-untyped-call]
        return logits

    @torch.no_grad()
    def finish(self) -> None:
        """Hand the gradients that the matrices added up to the model's parameters, in the order of the layers.

        The matrices go: between updates they would take as much memory as the model.
        """
        for i, layer in enumerate(self._layers):
            prefix = f"model.layers.{i}."
            scale = 1.0 if layer.head_norm is not None else self._view.scaling
            self._unfold(prefix, QKV, layer.qkv, "input_layernorm", scale)
            self._unfold(prefix, OUTPUT, layer.output)
            self._unfold(prefix, GATE_UP, layer.gate_up, "post_attention_layernorm")
            self._unfold(prefix, DOWN, layer.down)
            if layer.head_norm_grad is not None:
                query, key = layer.head_norm_grad.split((self._view.num_heads, self._view.num_kv_heads))
                self._give(f"{prefix}self_attn.q_norm.weight", (query * self._view.scaling).sum(0))
                self._give(f"{prefix}self_attn.k_norm.weight", key.sum(0))
        self._unfold("", HEAD, self._head)
        del self._layers, self._head, self._view

    def _unfold(self, prefix: str, parts: tuple[str, ...], matrix: Matrix, norm: str = "", scale: float = 1.0) -> None:
        """Give a matrix's gradient on to its parts, and to the norm whose weight n is in it: M = (s W) n.

        With G the gradient of M: that of W is s (G n), and that of n the sum over rows of G (s W).
        """
        if matrix.grad is None:
            return
        weight = self._model.get_parameter(f"{prefix}{norm}.weight") if norm else None
        for_norm = torch.empty_like(matrix.grad) if weight is not None and weight.requires_grad else None
        start = 0
        for i, part in enumerate(parts):
            name, factor = prefix + part, scale if i == 0 else 1.0
            values = self._model.get_parameter(f"{name}.weight")
            rows = slice(start, start := start + len(values))
            grad = matrix.grad[rows]
            if for_norm is not None:
                torch.mul(grad, values if factor == 1.0 else values * factor, out=for_norm[rows])
            if values.requires_grad:
                grad = grad if weight is None else grad * weight
                self._give(f"{name}.weight", grad if factor == 1.0 else grad * factor)
            if matrix.bias_grad is not None and self._model.get_submodule(name).bias is not None:
                self._give(f"{name}.bias", matrix.bias_grad[rows] * factor)
        if for_norm is not None:
            self._give(f"{prefix}{norm}.weight", for_norm.sum(0))

    def _give(self, name: str, grad: Tensor) -> None:
        """Add to a parameter's gradient, as autograd does, its hooks included."""
        parameter = self._model.get_parameter(name)
        if parameter.requires_grad:
            torch.autograd.backward(parameter, grad.to(parameter.dtype))

    def _rows(self, batch: MicroBatch, x: Tensor) -> Rows:
        view = self._view
        assert batch.spans is not None
        heads = (view.num_kv_heads, view.num_heads // view.num_kv_heads)
        blocks = build_blocks(batch.spans, len(x), heads, self._dtype)
        if x.device.type != "cpu":
            blocks = uploaded(blocks, x.device)
        cos, sin = rotary_rows(self._model.model, batch.position_ids, x)
        # Kept while they take no more than the rest that a layer keeps.
        rest = len(x) * (3 * x.shape[1] + 2 * self._layers[0].gate_up.weight.shape[0])
        return Rows(blocks, cos, sin, probability_elements(blocks) <= rest)


def _layer_step(x: Tensor, layer: Layer, rows: Rows) -> Tensor:
    return feed_forward_step(attention_step(x, layer, rows), layer)


class _Head(torch.autograd.Function):
    """A matrix product whose weight gradient the matrix keeps itself."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, matrix: Matrix) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.matrix = matrix
        return matrix(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors
        return ctx.matrix.backward(grad, hidden), None
