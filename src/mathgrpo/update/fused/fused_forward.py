"""The update's own forward pass for Qwen2 / Qwen3 / Llama models, over packed shared-prompt rows.

Same mathematics as the modules' forward, with the weights gathered into few matrices: query, key and value projections
are one, gate and up projections are one, the norms' weights and the attention's scale are folded in. They are cast to
the compute precision once per optimizer step, their gradients are added up in float32 and handed back to the
parameters once. grpo.fused_forward=off switches to the modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mathgrpo.models.qwen_view import rotary_rows, why_not_fused
from mathgrpo.update.fused.fused_attention import build_blocks, probability_elements
from mathgrpo.update.fused.fused_layers import Layer, Matrix, Rows, attention_step, feed_forward_step, final_norm
from mathgrpo.update.pack import MicroBatch

_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def why_not_fused_forward(model: Any) -> str:
    """Return why the update cannot use its own forward pass for a causal LM, or "" if it can."""
    if hasattr(model, "peft_config"):
        return "it trains an adapter"
    reason = why_not_fused(model)
    if reason:
        return reason
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in (*_PARTS, "lm_head") and type(module) is not nn.Linear:
            return f"{name} is a {type(module).__name__}"
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
    _layers: list[Layer]
    _head: Matrix

    @classmethod
    def of(cls, model: Any, dtype: torch.dtype) -> FusedForward:
        """Return the forward pass on the weights as they are now."""
        forward = cls(model, dtype, [], Matrix(torch.empty(0)))
        forward.refresh()
        return forward

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's weights as they are now, and forget all gradients."""
        layers = []
        for block in self.model.model.layers:
            tensors = [tensor if tensor is None else tensor.to(self.dtype) for tensor in _folded(block)]
            qkv, qkv_bias, output, output_bias, gate_up, gate_up_bias, down, down_bias = tensors
            assert qkv is not None and output is not None and gate_up is not None and down is not None
            layers.append(
                Layer(
                    Matrix(qkv, qkv_bias), Matrix(output, output_bias), Matrix(gate_up, gate_up_bias),
                    Matrix(down, down_bias), self.model.config.rms_norm_eps, _head_norm(block),
                )
            )  # fmt: skip
        head = self.model.lm_head
        self._layers = layers
        self._head = Matrix(
            head.weight.detach().to(self.dtype), None if head.bias is None else head.bias.to(self.dtype)
        )

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
        """Hand the gradients that the matrices added up to the model's parameters."""
        for block, layer in zip(self.model.model.layers, self._layers, strict=True):
            matrices = (layer.qkv, layer.output, layer.gate_up, layer.down)
            grads = [grad for matrix in matrices for grad in (matrix.grad, matrix.bias_grad)]
            with torch.enable_grad():
                tensors = [*_folded(block), _head_norm(block)]
            _backward(tensors, [*grads, layer.head_norm_grad])
            for matrix in matrices:
                matrix.grad = matrix.bias_grad = None
            layer.head_norm_grad = None
        head = self.model.lm_head
        _backward([head.weight, head.bias], [self._head.grad, self._head.bias_grad])
        self._head.grad = self._head.bias_grad = None

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


def _folded(block: Any) -> list[Tensor | None]:
    """Return the fused weights and biases of a transformer block as functions of its parameters.

    [qkv, bias, output, bias, gate_up, bias, down, bias], in the parameters' precision.
    """
    attention, mlp = block.self_attn, block.mlp
    qkv, qkv_bias = _stack((attention.q_proj, attention.k_proj, attention.v_proj))
    if not hasattr(attention, "q_norm"):
        scale = qkv.new_ones(qkv.shape[0], 1)
        scale[: attention.q_proj.out_features] = attention.scaling
        qkv = qkv * scale
        qkv_bias = None if qkv_bias is None else qkv_bias * scale[:, 0]
    gate_up, gate_up_bias = _stack((mlp.gate_proj, mlp.up_proj))
    return [
        qkv * block.input_layernorm.weight, qkv_bias,
        attention.o_proj.weight, attention.o_proj.bias,
        gate_up * block.post_attention_layernorm.weight, gate_up_bias,
        mlp.down_proj.weight, mlp.down_proj.bias,
    ]  # fmt: skip


def _head_norm(block: Any) -> Tensor | None:
    """Return the weights of q_norm and k_norm for every query and key head, queries scaled: [H + K, D], or None."""
    attention = block.self_attn
    if not hasattr(attention, "q_norm"):
        return None
    dim = attention.head_dim
    query = attention.q_norm.weight.expand(attention.q_proj.out_features // dim, -1) * attention.scaling
    weight: Tensor = torch.cat((query, attention.k_norm.weight.expand(attention.k_proj.out_features // dim, -1)))
    return weight.float()


def _stack(modules: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
    weight = torch.cat([module.weight for module in modules])
    if all(module.bias is None for module in modules):
        return weight, None
    return weight, torch.cat(
        [module.weight.new_zeros(module.out_features) if module.bias is None else module.bias for module in modules]
    )


def _backward(tensors: list[Tensor | None], grads: list[Tensor | None]) -> None:
    pairs = [
        (tensor, grad.to(tensor.dtype))
        for tensor, grad in zip(tensors, grads, strict=True)
        if tensor is not None and grad is not None and tensor.requires_grad
    ]
    if pairs:
        torch.autograd.backward([tensor for tensor, _ in pairs], [grad for _, grad in pairs])
