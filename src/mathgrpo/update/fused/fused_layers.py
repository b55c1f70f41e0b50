"""A transformer block of the Qwen2 / Qwen3 / Llama family as two steps with their own backward.

    attention   x + Attention(RMSNorm(x))        feed-forward   x + Down(SiLU(Gate(h)) * Up(h)), h = RMSNorm(x)

Each keeps few tensors and computes cheap ones again. Gradients of weights do not pass through autograd: each matrix
adds up its own, in float32, over all micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.update.fused.fused_attention import Blocks, attend, attend_backward

# Shape legend: T packed rows, F hidden size, W heads of queries, keys and values together, D head size.


@dataclass(slots=True)
class Matrix:
    """A weight [out, in] and bias in the compute precision, and their gradients in float32 once there are any."""

    weight: Tensor
    bias: Tensor | None = None
    grad: Tensor | None = None
    bias_grad: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return inputs W^T + b."""
        return F.linear(inputs, self.weight, self.bias)

    def backward(self, grad: Tensor, inputs: Tensor) -> Tensor:
        """Add the weights' gradients up and return that of the inputs."""
        if self.grad is None:
            self.grad = torch.mm(grad.t(), inputs).float()
        elif self.grad.dtype == grad.dtype:
            self.grad.addmm_(grad.t(), inputs)
        else:
            self.grad.add_(torch.mm(grad.t(), inputs))
        if self.bias is not None:
            bias_grad = grad.sum(dim=0, dtype=torch.float32)
            self.bias_grad = bias_grad if self.bias_grad is None else self.bias_grad.add_(bias_grad)
        return torch.mm(grad, self.weight)


@dataclass(slots=True)
class Layer:
    """The matrices of a block; the norms' weights are part of the matrices that follow them.

    Attributes:
        qkv: queries, keys, values stacked; queries scaled.
        head_norm: weights of the per-head norms [H + K, D] in float32, queries scaled there instead; or None.
        head_norm_grad: their gradient.
    """

    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix
    eps: float
    head_norm: Tensor | None = None
    head_norm_grad: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """What every layer needs to know about the packed rows.

    Attributes:
        blocks: which rows attend to which.
        cos, sin: rotary tables [T, 1, D], float32; the first half of sin carries rotate_half's minus sign.
        keep_probabilities: keep attention probabilities for the backward pass, or compute them again.
    """

    blocks: Blocks
    cos: Tensor
    sin: Tensor
    keep_probabilities: bool


def attention_step(x: Tensor, layer: Layer, rows: Rows) -> Tensor:
    """Return x + Attention(RMSNorm(x)): float32 [T, F] -> [T, F]."""
    result: Tensor = _Attention.apply(x, layer, rows)  # type: ignore[no-untyped-call]
    return result


def feed_forward_step(x: Tensor, layer: Layer) -> Tensor:
    """Return x + Down(SiLU(Gate(h)) * Up(h)) with h = RMSNorm(x): float32 [T, F] -> [T, F]."""
    result: Tensor = _FeedForward.apply(x, layer)  # type: ignore[no-untyped-call]
    return result


def final_norm(x: Tensor, rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm(x) of the chosen rows: [T, F] -> [N, F], float32; an ordinary function for autograd."""
    chosen = x.index_select(0, rows)
    return chosen * torch.rsqrt(chosen.square().mean(-1, keepdim=True) + eps) * weight


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, rows: Rows) -> Tensor:
        hidden, scale = _normalise(x, layer.eps, layer.qkv.weight.dtype)
        key_heads, share = rows.blocks.heads
        heads = layer.qkv(hidden).view(len(x), key_heads * (share + 2), -1)
        turned = heads[:, : key_heads * (share + 1)]
        head_norm = None
        if layer.head_norm is None:
            turned.copy_(_rotate(turned.float(), rows.cos, rows.sin))
        else:
            head_norm = _normalise(turned.float(), layer.eps, torch.float32)
            turned.copy_(_rotate(head_norm[0] * layer.head_norm, rows.cos, rows.sin))
        out, kept = attend(heads, rows.blocks, keep=rows.keep_probabilities)
        ctx.saved = (layer, rows, hidden, scale, heads, head_norm, out, kept)
        return x + layer.output(out)

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor, None, None]:
        layer, rows, hidden, scale, heads, head_norm, out, kept = _take(ctx)
        key_heads, share = rows.blocks.heads
        grad_out = layer.output.backward(grad_x.to(hidden.dtype), out)
        grad_heads = attend_backward(grad_out, heads, rows.blocks, kept)
        turned = grad_heads[:, : key_heads * (share + 1)]
        # A rotation's transpose turns back.
        grad_turned = _rotate(turned.float(), rows.cos, -rows.sin)
        if head_norm is not None:
            weight_grad = (grad_turned * head_norm[0]).sum(dim=0)
            layer.head_norm_grad = weight_grad if layer.head_norm_grad is None else layer.head_norm_grad + weight_grad
            grad_turned = _normalise_backward(grad_turned.mul_(layer.head_norm), *head_norm)
        turned.copy_(grad_turned)
        grad_hidden = layer.qkv.backward(grad_heads.view(len(grad_heads), -1), hidden)
        return grad_x + _normalise_backward(grad_hidden.float(), hidden, scale), None, None


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer) -> Tensor:
        hidden, scale = _normalise(x, layer.eps, layer.gate_up.weight.dtype)
        gate_up = layer.gate_up(hidden)
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.saved = (layer, hidden, scale, gate_up)
        return x + layer.down(F.silu(gate).mul_(up))

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor, None]:
        layer, hidden, scale, gate_up = _take(ctx)
        gate, up = gate_up.chunk(2, dim=-1)
        active = F.silu(gate)
        grad_product = layer.down.backward(grad_x.to(hidden.dtype), active * up)
        grads = torch.empty_like(gate_up)
        grad_gate, grad_up = grads.chunk(2, dim=-1)
        torch.mul(grad_product, active, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad_product.mul_(up), gate, grad_input=grad_gate)
        grad_hidden = layer.gate_up.backward(grads, hidden)
        return grad_x + _normalise_backward(grad_hidden.float(), hidden, scale), None


def _take(ctx: Any) -> Any:
    """Return what the forward pass saved, and let go of it: a backward pass runs once."""
    saved, ctx.saved = ctx.saved, None
    return saved


def _normalise(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (x / rms(x) in `dtype`, 1 / rms(x) in float32), over the last dimension."""
    scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return (x * scale).to(dtype), scale


def _normalise_backward(grad: Tensor, normal: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of x from that of n = x / rms(x): (g - n mean(g n)) / rms(x). Overwrites grad."""
    normal = normal.float()
    mean = (grad * normal).mean(dim=-1, keepdim=True)
    return grad.addcmul_(normal, mean, value=-1.0).mul_(scale)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the heads turned by their positions: [T, heads, D], float32."""
    half = heads.shape[-1] // 2
    swapped = torch.cat((heads[..., half:], heads[..., :half]), dim=-1)
    return (heads * cos).addcmul_(swapped, sin)
