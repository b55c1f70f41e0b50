"""The fused decoder's view of a Qwen2 / Qwen3 / Llama model: a few large matrices instead of many modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mathgrpo.models.quantized import is_linear4bit, written_out

_SERVED = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM")
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")
_ATTENTION_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP_PARTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One transformer block; matrices in the compute precision, norms as the model keeps them.

    Attributes:
        qkv, gate_up: rows of the separate projections stacked, with their bias or None.
        head_norm: q_norm and k_norm for every query and key head, [H + KV, head_dim], or None.
    """

    input_norm: Tensor
    qkv: tuple[Tensor, Tensor | None]
    head_norm: Tensor | None
    output: tuple[Tensor, Tensor | None]
    mlp_norm: Tensor
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]


@dataclass(frozen=True, slots=True)
class FusedModel:
    """A whole model for decoding.

    Attributes:
        cos, sin: rotary tables, [positions, 1, head_dim]; the first half of sin carries rotate_half's minus sign.
    """

    embedding: Tensor
    layers: tuple[FusedLayer, ...]
    norm: Tensor
    head: tuple[Tensor, Tensor | None]
    cos: Tensor
    sin: Tensor
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    dtype: torch.dtype


def why_not_fused(model: Any) -> str:
    """Return why a causal LM is not of the fused decoder's kind, or "" when it is."""
    kind, config = type(model).__name__, model.config
    if kind not in _SERVED or not type(model).__module__.startswith("transformers.models."):
        return f"{kind} is not in the Qwen2/Qwen3/Llama family"
    if any(layer_type != "full_attention" for layer_type in getattr(config, "layer_types", None) or ()):
        return "it has sliding-window layers"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type not in _FIXED_ROPE:
        return f"its rotary embedding ({rope_type}) changes with the length"
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in (*_ATTENTION_PARTS, *_MLP_PARTS, "lm_head") and not _is_plain(module):
            return f"{name} is a {type(module).__name__}"
    return ""


def _is_plain(module: Any) -> bool:
    """Whether the layer's output is x W^T + b for a W that can be written down: Linear, 4-bit, plain LoRA around it."""
    if type(module) is nn.Linear or is_linear4bit(module):
        return True
    base = getattr(module, "base_layer", None)
    home = "peft.tuners.lora.bnb" if is_linear4bit(base) else "peft.tuners.lora.layer"
    if not (type(base) is nn.Linear or is_linear4bit(base)) or type(module).__module__ != home:
        return False
    return not any(getattr(module, "lora_variant", {}).values()) and not any(getattr(module, "lora_bias", {}).values())


def fuse(model: Any, dtype: torch.dtype, num_positions: int) -> FusedModel:
    """Return the model's weights as they are now, fused, in the compute precision.

    Matrices that need neither stacking nor casting are views; adapters are merged into the copies, never into the
    model.
    """
    config, body = model.config, model.model
    head_dim = body.layers[0].self_attn.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    embedding = body.embed_tokens.weight
    cos, sin = rotary_tables(body, num_positions, embedding)
    return FusedModel(
        embedding=embedding,
        layers=tuple(_fuse_layer(layer, dtype, heads, kv_heads) for layer in body.layers),
        norm=body.norm.weight,
        head=_stack((model.lm_head,), dtype),
        cos=cos,
        sin=sin,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        eps=config.rms_norm_eps,
        dtype=dtype,
    )


def _fuse_layer(layer: Any, dtype: torch.dtype, heads: int, kv_heads: int) -> FusedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    head_norm = None
    if hasattr(attention, "q_norm"):
        q_norm, k_norm = attention.q_norm.weight, attention.k_norm.weight
        head_norm = torch.cat((q_norm.expand(heads, -1), k_norm.expand(kv_heads, -1)))
    return FusedLayer(
        input_norm=layer.input_layernorm.weight,
        qkv=_stack((attention.q_proj, attention.k_proj, attention.v_proj), dtype),
        head_norm=head_norm,
        output=_stack((attention.o_proj,), dtype),
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=_stack((mlp.gate_proj, mlp.up_proj), dtype),
        down=_stack((mlp.down_proj,), dtype),
    )


def _stack(modules: tuple[Any, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    weights = [effective_weight(module).to(dtype) for module in modules]
    biases = [module.bias for module in modules]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    if all(bias is None for bias in biases):
        return weight, None
    filled = [w.new_zeros(w.shape[0]) if b is None else b.to(dtype) for w, b in zip(weights, biases, strict=True)]
    return weight, torch.cat(filled)


def effective_weight(module: Any) -> Tensor:
    """Return W, or W + scale * B A for every active adapter of a LoRA layer; a 4-bit W is written out."""
    base = getattr(module, "base_layer", module)
    weight: Tensor = written_out(base) if is_linear4bit(base) else base.weight
    if base is module:
        return weight
    if module.merged or module.disable_adapters:
        return weight
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            weight = weight + module.get_delta_weight(adapter)
    return weight


def rotary_tables(body: Any, num_positions: int, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the first positions, [positions, 1, head_dim]; sin's first half is negated."""
    return rotary_rows(body, torch.arange(num_positions, device=embedding.device)[None], embedding)


def rotary_rows(body: Any, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin at positions [1, T], [T, 1, head_dim] in the precision of `like`; sin's first half is negated.

    With rotate_half's minus sign in it, turning a head is x cos + (its halves swapped) sin.
    """
    cos, sin = body.rotary_emb(like[:1, None], positions)
    half = sin.shape[-1] // 2
    signed = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
    return cos[0, :, None].contiguous(), signed[:, None]
