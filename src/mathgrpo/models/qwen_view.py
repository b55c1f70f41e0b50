"""The one view of the fast family (Qwen2, Qwen3, Llama): a few large matrices instead of many modules.

Whatever computes such a model without its modules (the update's own forward pass, the decoders in torch, in C and on
CUDA) reads it here: which parameters make a block, how projections are stacked, what an adapter or 4-bit weights stand
for. Nothing else knows the modules' names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mathgrpo.models.quantized import is_linear4bit, written_out

_SERVED = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM")
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")
_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")

Stacked = tuple[Tensor, Tensor | None]
"""A weight [out, in] and its bias, or None."""
Gather = Callable[[Tensor], Tensor]
"""Returns a parameter whole: as it is, or, of a sharded model, put together for the moment it is read."""


def why_not_served(model: Any) -> str:
    """Return why a causal LM is not of the fast family, or "" when it is."""
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
    for name, module in matrices_of(model):
        if not _is_plain(module):
            return f"{name} is a {type(module).__name__}"
    return ""


def matrices_of(model: Any) -> list[tuple[str, Any]]:
    """Return the names and modules of everything that multiplies by a matrix in a model of the family."""
    return [(name, module) for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in _MATRICES]


def _is_plain(module: Any) -> bool:
    """Whether the layer's output is x W^T + b for a W that can be written down: Linear, 4-bit, plain LoRA around it."""
    if type(module) is nn.Linear or is_linear4bit(module):
        return True
    base = getattr(module, "base_layer", None)
    home = "peft.tuners.lora.bnb" if is_linear4bit(base) else "peft.tuners.lora.layer"
    if not (type(base) is nn.Linear or is_linear4bit(base)) or type(module).__module__ != home:
        return False
    return not any(getattr(module, "lora_variant", {}).values()) and not any(getattr(module, "lora_bias", {}).values())


@dataclass(frozen=True, slots=True)
class Block:
    """The modules of one transformer block, in the order in which their matrices are stacked.

    Attributes:
        input_norm, mlp_norm: weights of the norms before attention and feed-forward.
        head_norms: weights of q_norm and k_norm (Qwen3), or None.
        scaling: what attention multiplies queries by.
    """

    qkv: tuple[Any, Any, Any]
    output: tuple[Any]
    gate_up: tuple[Any, Any]
    down: tuple[Any]
    input_norm: Tensor
    mlp_norm: Tensor
    head_norms: tuple[Tensor, Tensor] | None
    head_dim: int
    scaling: float

    def head_norm(self, query_scale: float = 1.0) -> Tensor | None:
        """Return the weights of the per-head norms for every query and key head, [H + KV, head_dim], or None."""
        if self.head_norms is None:
            return None
        query, key = self.head_norms
        heads, kv_heads = (module.out_features // self.head_dim for module in self.qkv[:2])
        query = query.expand(heads, -1)
        return torch.cat((query if query_scale == 1.0 else query * query_scale, key.expand(kv_heads, -1)))


def blocks_of(model: Any) -> list[Block]:
    """Return the blocks of a causal LM for which `why_not_served` is ""."""
    return [_block(layer) for layer in model.model.layers]


def _block(layer: Any) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    normed = hasattr(attention, "q_norm")
    return Block(
        qkv=(attention.q_proj, attention.k_proj, attention.v_proj),
        output=(attention.o_proj,),
        gate_up=(mlp.gate_proj, mlp.up_proj),
        down=(mlp.down_proj,),
        input_norm=layer.input_layernorm.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        head_norms=(attention.q_norm.weight, attention.k_norm.weight) if normed else None,
        head_dim=attention.head_dim,
        scaling=attention.scaling,
    )


def effective_weight(module: Any, gather: Gather | None = None) -> Tensor:
    """Return W, or W + scale * B A for every active adapter of a LoRA layer; a 4-bit W is written out."""
    base = getattr(module, "base_layer", module)
    weight: Tensor = written_out(base) if is_linear4bit(base) else gather(base.weight) if gather else base.weight
    if base is module or module.merged or module.disable_adapters:
        return weight
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            weight = weight + module.get_delta_weight(adapter)
    return weight


@dataclass(frozen=True, slots=True)
class ViewLayer:
    """One transformer block; matrices in the compute precision, norms as the model keeps them.

    Attributes:
        qkv, gate_up: rows of the separate projections stacked.
        head_norm: q_norm and k_norm for every query and key head, [H + KV, head_dim], or None.
    """

    input_norm: Tensor
    qkv: Stacked
    head_norm: Tensor | None
    output: Stacked
    mlp_norm: Tensor
    gate_up: Stacked
    down: Stacked


class QwenView:
    """A whole model as decoders read it. Adapters are merged into the copies here, never into the model.

    fixed: every copied tensor keeps its address over `refresh`, as a captured graph needs it; else matrices that need
        neither stacking nor casting are the model's own memory, and the view is of the weights as they are now.
    gather: how a parameter is had whole; one is held at a time, beside its copy here.

    Attributes:
        embedding: read where the model keeps it.
        cos, sin: rotary tables, [positions, 1, head_dim]; the first half of sin carries rotate_half's minus sign.
    """

    def __init__(
        self, model: Any, dtype: torch.dtype, num_positions: int, *, fixed: bool = False, gather: Gather | None = None
    ) -> None:
        config, blocks = model.config, blocks_of(model)
        self._model, self._fixed, self._gather = model, fixed, gather
        self.dtype, self.eps = dtype, config.rms_norm_eps
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = blocks[0].head_dim
        self.norm = self._vector(model.model.norm.weight)
        self.head = self._stack((model.lm_head,))
        self.layers = tuple(self._layer(block) for block in blocks)
        self._reach(num_positions)

    def refresh(self, num_positions: int) -> bool:
        """Copy the weights as they are now to the same addresses; return whether another address changed.

        num_positions: positions the rotary tables must reach. Only for a fixed view.
        """
        embedding = self._whole(self._model.model.embed_tokens.weight)
        moved = num_positions > len(self.cos) or not _same_memory(embedding, self.embedding)
        if moved:
            self._reach(max(len(self.cos), 1 << (num_positions - 1).bit_length()))
        for block, into in zip(blocks_of(self._model), self.layers, strict=True):
            into.input_norm.copy_(self._whole(block.input_norm))
            into.mlp_norm.copy_(self._whole(block.mlp_norm))
            norms = block.head_norm()
            if into.head_norm is not None and norms is not None:
                into.head_norm.copy_(norms)
            for matrix, modules in zip(_matrices(into), _modules(block), strict=True):
                self._fill(matrix, modules)
        self.norm.copy_(self._whole(self._model.model.norm.weight))
        self._fill(self.head, (self._model.lm_head,))
        return moved

    def _reach(self, num_positions: int) -> None:
        self.embedding = self._whole(self._model.model.embed_tokens.weight)
        positions = torch.arange(num_positions, device=self.embedding.device)[None]
        self.cos, self.sin = rotary_rows(self._model.model, positions, self.embedding)

    def _layer(self, block: Block) -> ViewLayer:
        qkv, output, gate_up, down = (self._stack(modules) for modules in _modules(block))
        return ViewLayer(
            self._vector(block.input_norm), qkv, block.head_norm(), output, self._vector(block.mlp_norm), gate_up, down
        )

    def _whole(self, parameter: Tensor) -> Tensor:
        return self._gather(parameter) if self._gather else parameter.detach() if self._fixed else parameter

    def _vector(self, parameter: Tensor) -> Tensor:
        return self._whole(parameter).detach().clone() if self._fixed else self._whole(parameter)

    def _stack(self, modules: tuple[Any, ...]) -> Stacked:
        """Return modules' weights one below another in the compute precision."""
        if len(modules) == 1 and not self._fixed:
            weight = effective_weight(modules[0], self._gather).to(self.dtype)
        else:
            bases = [_base(module) for module in modules]  # 4-bit weights do not have the shape of the matrix
            rows = sum(base.out_features for base in bases)
            weight = bases[0].weight.new_empty((rows, bases[0].in_features), dtype=self.dtype)
        bias = None if all(_base(module).bias is None for module in modules) else weight.new_zeros(len(weight))
        self._fill((weight, bias), modules, own=len(modules) > 1 or self._fixed)
        return weight, bias

    @torch.no_grad()
    def _fill(self, into: Stacked, modules: tuple[Any, ...], *, own: bool = True) -> None:
        weight, bias = into
        start = 0
        for module in modules:
            stop = start + _base(module).out_features
            if own:
                weight[start:stop] = effective_weight(module, self._gather)
            if bias is not None and _base(module).bias is not None:
                bias[start:stop] = self._whole(_base(module).bias)
            start = stop


def _matrices(layer: ViewLayer) -> tuple[Stacked, Stacked, Stacked, Stacked]:
    return layer.qkv, layer.output, layer.gate_up, layer.down


def _modules(block: Block) -> tuple[tuple[Any, ...], ...]:
    return block.qkv, block.output, block.gate_up, block.down


def _base(module: Any) -> Any:
    """Return the plain layer inside an adapter's."""
    return getattr(module, "base_layer", module)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype


def rotary_rows(body: Any, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin at positions [1, T], [T, 1, head_dim] in the precision of `like`; sin's first half is negated.

    With rotate_half's minus sign in it, turning a head is x cos + (its halves swapped) sin.
    """
    cos, sin = body.rotary_emb(like[:1, None], positions)
    half = sin.shape[-1] // 2
    signed = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
    return cos[0, :, None].contiguous(), signed[:, None]
