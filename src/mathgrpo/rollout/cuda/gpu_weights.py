"""The decoder's compute copy of the weights: allocated once, rewritten in place before each rollout.

A captured graph holds addresses. Optimizer steps change the master weights; copying them into the same memory keeps
every graph valid, where a fresh copy would need a fresh capture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mathgrpo.models.qwen_view import FusedLayer, FusedModel, effective_weight, rotary_tables

_FEWEST_POSITIONS = 1024


class ComputeWeights:
    """The fused matrices of a Qwen2 / Qwen3 / Llama model in the compute precision, at fixed addresses.

    The embedding is not copied: it is read where the model keeps it, and `refresh` says when it has moved.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.fused = _allocate(model, dtype, _FEWEST_POSITIONS)

    def refresh(self, model: Any, num_positions: int) -> bool:
        """Copy the weights as they are now, adapters merged; return whether an address changed.

        num_positions: positions the rotary tables must reach.
        """
        have = self.fused
        reach = max(len(have.cos), 1 << (num_positions - 1).bit_length())
        moved = reach > len(have.cos) or not _same_memory(model.model.embed_tokens.weight, have.embedding)
        if moved:
            self.fused = _allocate(model, self.dtype, reach)
        _copy_weights(model, self.fused)
        return moved


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype


def _allocate(model: Any, dtype: torch.dtype, num_positions: int) -> FusedModel:
    """Return a fused model of the right shapes whose copied weights are not yet written."""
    config, body = model.config, model.model
    embedding = body.embed_tokens.weight.detach()
    cos, sin = rotary_tables(body, num_positions, embedding)
    return FusedModel(
        embedding=embedding,
        layers=tuple(_allocate_layer(layer, dtype) for layer in body.layers),
        norm=torch.empty_like(body.norm.weight),
        head=_allocate_matrix((model.lm_head,), dtype),
        cos=cos,
        sin=sin,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=body.layers[0].self_attn.head_dim,
        eps=config.rms_norm_eps,
        dtype=dtype,
    )


def _allocate_layer(layer: Any, dtype: torch.dtype) -> FusedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = _allocate_matrix((attention.q_proj, attention.k_proj, attention.v_proj), dtype)
    head_norm = None
    if hasattr(attention, "q_norm"):
        dim = attention.head_dim
        rotated = (effective_weight(attention.q_proj).shape[0] + effective_weight(attention.k_proj).shape[0]) // dim
        head_norm = attention.q_norm.weight.new_empty(rotated, dim)
    return FusedLayer(
        input_norm=torch.empty_like(layer.input_layernorm.weight),
        qkv=qkv,
        head_norm=head_norm,
        output=_allocate_matrix((attention.o_proj,), dtype),
        mlp_norm=torch.empty_like(layer.post_attention_layernorm.weight),
        gate_up=_allocate_matrix((mlp.gate_proj, mlp.up_proj), dtype),
        down=_allocate_matrix((mlp.down_proj,), dtype),
    )


def _allocate_matrix(modules: tuple[Any, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    layers = [_base(module) for module in modules]  # 4-bit weights do not have the shape of the matrix
    rows = sum(layer.out_features for layer in layers)
    weight = layers[0].weight.new_empty((rows, layers[0].in_features), dtype=dtype)
    if all(_base(module).bias is None for module in modules):
        return weight, None
    return weight, weight.new_zeros(rows)


def _copy_weights(model: Any, fused: FusedModel) -> None:
    body = model.model
    for layer, into in zip(body.layers, fused.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        into.input_norm.copy_(layer.input_layernorm.weight)
        into.mlp_norm.copy_(layer.post_attention_layernorm.weight)
        if into.head_norm is not None:
            into.head_norm[: fused.num_heads] = attention.q_norm.weight
            into.head_norm[fused.num_heads :] = attention.k_norm.weight
        _copy_matrix(into.qkv, (attention.q_proj, attention.k_proj, attention.v_proj))
        _copy_matrix(into.output, (attention.o_proj,))
        _copy_matrix(into.gate_up, (mlp.gate_proj, mlp.up_proj))
        _copy_matrix(into.down, (mlp.down_proj,))
    fused.norm.copy_(body.norm.weight)
    _copy_matrix(fused.head, (model.lm_head,))


def _copy_matrix(into: tuple[Tensor, Tensor | None], modules: tuple[Any, ...]) -> None:
    weight, bias = into
    start = 0
    for module in modules:
        source = effective_weight(module)
        stop = start + source.shape[0]
        weight[start:stop] = source
        if bias is not None and _base(module).bias is not None:
            bias[start:stop] = _base(module).bias
        start = stop


def _base(module: Any) -> Any:
    """Return the plain layer inside an adapter's."""
    return getattr(module, "base_layer", module)
