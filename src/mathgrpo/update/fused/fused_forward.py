"""The update's own forward pass for Qwen2 / Qwen3 / Llama models, over packed shared-prompt rows.

Same mathematics as the modules' forward, with the weights gathered into few matrices: query, key and value projections
are one, gate and up projections are one, the norms' weights and the attention's scale are folded in. They are cast to
the compute precision once per optimizer step, their gradients are added up in float32 and handed back to the
parameters once. grpo.fused_forward=off switches to the modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mathgrpo.models.qwen_view import Block, blocks_of, matrices_of, rotary_rows, why_not_served
from mathgrpo.update.fused.fused_attention import build_blocks, probability_elements
from mathgrpo.update.fused.fused_layers import Layer, Matrix, Rows, attention_step, feed_forward_step, final_norm
from mathgrpo.update.pack import MicroBatch


def why_not_fused_forward(model: Any) -> str:
    """Return why the update cannot use its own forward pass for a causal LM, or "" if it can."""
    if hasattr(model, "peft_config"):
        return "it trains an adapter"
    reason = why_not_served(model)
    if reason:
        return reason
    for name, module in matrices_of(model):
        if type(module) is not nn.Linear:
            return f"{name} is a {type(module).__name__}"
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return f"{name or 'the model'} has hooks, which would not run"
    if any("forward" in vars(layer) for layer in model.model.layers):
        return "a layer's forward pass was replaced"
    if model.config.attention_dropout:
        return "it has attention dropout"
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return "its matrices are copies in the compute precision"
    return ""


@dataclass(slots=True)
class FusedForward:
    """A forward pass with gradients that arrive at the model's parameters on `finish`.

    Attributes:
        model: a causal LM for which `why_not_fused_forward` is "".
        dtype: precision of matrix products.
    """

    model: Any
    dtype: torch.dtype
    _layers: list[Layer] = field(default_factory=list)
    _head: Matrix = field(default_factory=lambda: Matrix(torch.empty(0)))

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's weights, if they may have changed since the last time, and forget all gradients."""
        if not self._layers:
            self._layers = [fold(block, self.dtype, self.model.config.rms_norm_eps) for block in blocks_of(self.model)]
            head = self.model.lm_head
            bias = None if head.bias is None else head.bias.to(self.dtype)
            self._head = Matrix(head.weight.detach().to(self.dtype), bias)
        for layer in self._layers:
            layer.forget()
        self._head.forget()

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context a pass runs in: precision is explicit here, so none."""
        return contextlib.nullcontext()

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the final hidden states of the micro-batch's logit rows, [N, F] in the compute precision."""
        body = self.model.model
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
        return final_norm(x, batch.logit_rows, body.norm.weight, self.model.config.rms_norm_eps).to(self.dtype)

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """The LM head: hidden states -> logits."""
        return self._apply_head

    def _apply_head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = _Head.apply(hidden, self._head)  # type: ignore[no-untyped-call]
        return logits

    def finish(self) -> None:
        """Hand the gradients that the matrices added up to the model's parameters, whose step makes them others."""
        for block, layer in zip(blocks_of(self.model), self._layers, strict=True):
            _unfold_gradients(block, layer)
            layer.forget()
        head = self.model.lm_head
        _add_gradients((head,), self._head.grad, self._head.bias_grad)
        self._layers, self._head = [], Matrix(torch.empty(0))

    def _rows(self, batch: MicroBatch, x: Tensor) -> Rows:
        key_heads = self.model.config.num_key_value_heads
        heads = (key_heads, self.model.config.num_attention_heads // key_heads)
        assert batch.spans is not None
        blocks = build_blocks(batch.spans, len(x), heads, x.device, self.dtype)
        cos, sin = rotary_rows(self.model.model, batch.position_ids, x)
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


def fold(block: Block, dtype: torch.dtype, eps: float) -> Layer:
    """Return a block's matrices in the compute precision, the norms before them and the attention's scale inside."""
    qkv, gate_up = _scaled_qkv(block), _stack(block.gate_up)
    bias = _stacked_bias(block.qkv)
    if bias is not None and block.head_norms is None:
        bias = bias * _query_scale(block, bias)[:, 0]
    return Layer(
        qkv=_matrix(qkv * block.input_norm, bias, dtype),
        output=_matrix(_stack(block.output), _stacked_bias(block.output), dtype),
        gate_up=_matrix(gate_up * block.mlp_norm, _stacked_bias(block.gate_up), dtype),
        down=_matrix(_stack(block.down), _stacked_bias(block.down), dtype),
        eps=eps,
        head_norm=_float(block.head_norm(block.scaling)),
    )


def _unfold_gradients(block: Block, layer: Layer) -> None:
    """Add the gradients of the folded matrices to those of the parameters: the chain rule through `fold`.

    With F = S W n for a query scale S [out, 1] and a norm n [in]: dW = S (dF n), dn = sum over out of dF (S W).
    """
    qkv, bias = layer.qkv.grad, layer.qkv.bias_grad
    if qkv is not None:
        _add(block.input_norm, (qkv * _scaled_qkv(block)).sum(dim=0))
        qkv = qkv * block.input_norm.detach()
        if block.head_norms is None:
            scale = _query_scale(block, qkv)
            qkv, bias = qkv * scale, None if bias is None else bias * scale[:, 0]
    _add_gradients(block.qkv, qkv, bias)
    gate_up = layer.gate_up.grad
    if gate_up is not None:
        _add(block.mlp_norm, (gate_up * _stack(block.gate_up)).sum(dim=0))
        gate_up = gate_up * block.mlp_norm.detach()
    _add_gradients(block.gate_up, gate_up, layer.gate_up.bias_grad)
    _add_gradients(block.output, layer.output.grad, layer.output.bias_grad)
    _add_gradients(block.down, layer.down.grad, layer.down.bias_grad)
    if block.head_norms is not None and layer.head_norm_grad is not None:
        query, key = block.head_norms
        heads = block.qkv[0].out_features // block.head_dim
        _add(key, layer.head_norm_grad[heads:].sum(dim=0))
        _add(query, (layer.head_norm_grad[:heads] * block.scaling).sum(dim=0))


def _scaled_qkv(block: Block) -> Tensor:
    """Return W of the three projections, rows of queries multiplied by the attention's scale.

    With norms of heads (Qwen3) the scale is in the query norm's weight instead.
    """
    qkv = _stack(block.qkv)
    return qkv if block.head_norms is not None else qkv * _query_scale(block, qkv)


def _query_scale(block: Block, like: Tensor) -> Tensor:
    scale = like.new_ones(len(like), 1)
    scale[: block.qkv[0].out_features] = block.scaling
    return scale


def _stack(modules: tuple[Any, ...]) -> Tensor:
    weights = [module.weight.detach() for module in modules]
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _stacked_bias(modules: tuple[Any, ...]) -> Tensor | None:
    if all(module.bias is None for module in modules):
        return None
    biases = [m.weight.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in modules]
    return torch.cat(biases)


def _matrix(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Matrix:
    return Matrix(weight.detach().to(dtype), None if bias is None else bias.to(dtype))


def _float(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().float()


def _add_gradients(modules: tuple[Any, ...], weight: Tensor | None, bias: Tensor | None) -> None:
    """Add the rows of a stacked gradient to the parameters that were stacked."""
    start = 0
    for module in modules:
        rows = slice(start, start + module.out_features)
        start = rows.stop
        for parameter, grad in ((module.weight, weight), (module.bias, bias)):
            if parameter is not None and grad is not None:
                _add(parameter, grad[rows])


def _add(parameter: Tensor, grad: Tensor) -> None:
    """Add to a parameter's gradient; the first one becomes it, where nobody else holds its memory."""
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = grad.to(parameter.dtype, copy=True).contiguous()
    else:
        parameter.grad += grad
