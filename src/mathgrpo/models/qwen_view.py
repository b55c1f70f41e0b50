"""The one view of a Qwen2 / Qwen3 / Llama model: few large matrices in place of many modules.

The update's own forward pass, the torch decoder and the CUDA decoder read it as it is; the compiled decoder packs its
panels from the same source. A source gives one parameter at a time by its name, so a view is filled from whole weights
or from weights gathered shard by shard, with never more than one of them at hand.

`refresh` writes the weights as they are now to the addresses that are there, which is what captured CUDA graphs need.
What needs neither stacking nor casting is not copied: it is the model's own memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mathgrpo.models.known_modules import why_not_served
from mathgrpo.models.module_weights import NotServed, effective_weight, plain_module
from mathgrpo.models.policy import module_outfit

Source = Callable[[str], Tensor | None]
"""Name of a parameter, such as "model.layers.0.mlp.up_proj.weight" -> its values now; None for a bias there is not."""

Pair = tuple[Tensor, Tensor | None]
"""A matrix [out, in] and its bias [out]."""

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUTPUT = ("self_attn.o_proj",)
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
DOWN = ("mlp.down_proj",)
HEAD = ("lm_head",)


@dataclass(frozen=True, slots=True)
class ViewLayer:
    """One transformer block; matrices in the compute precision, norms in their own.

    Attributes:
        input_norm, mlp_norm: weights of the norms, which a folded view has in qkv and gate_up already.
        qkv, gate_up: rows of the separate projections stacked.
        head_norm: q_norm and k_norm for every query and key head, [H + KV, head_dim], or None.
    """

    input_norm: Tensor
    qkv: Pair
    head_norm: Tensor | None
    output: Pair
    mlp_norm: Tensor
    gate_up: Pair
    down: Pair


class QwenView:
    """A model's matrices, as the weights were when it was made or last refreshed.

    Attributes:
        layers: the blocks.
        head: the LM head.
        embedding, norm: as the model keeps them.
        cos, sin: rotary tables, [positions, 1, head_dim]; the first half of sin carries rotate_half's minus sign.
    """

    layers: tuple[ViewLayer, ...]
    head: Pair
    embedding: Tensor
    norm: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(
        self, model: Any, dtype: torch.dtype, num_positions: int = 0, *, folded: bool = False,
        source: Source | None = None,
    ) -> None:  # fmt: skip
        """model: a causal LM for which `why_not_served` is "". dtype: precision of the matrices.

        num_positions: positions the rotary tables must reach; 0 for no tables.
        folded: the norms' weights and the attention's scale are multiplied into the matrices before they are cast.
        source: where the parameters come from; the model's modules when not given.
        """
        config, attention = model.config, model.model.layers[0].self_attn
        self.model, self.dtype, self._folded = model, dtype, folded
        self._source = source or whole_weights(model)
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.scaling, self.eps = attention.head_dim, attention.scaling, config.rms_norm_eps
        self.num_layers = len(model.model.layers)
        self._owned: dict[str, Tensor] = {}
        self._addresses: dict[str, int] = {}
        self.refresh(num_positions)

    @torch.no_grad()
    def refresh(self, num_positions: int = 0) -> bool:
        """Take over the weights as they are now, adapters merged; return whether an address is another than before.

        num_positions: as when it was made.
        Raises: NotServed when the model has been wrapped or hooked since in a way that the view does not know.
        """
        require_served(self.model)
        before, self._addresses = self._addresses, {}
        self.embedding, self.norm = self._vector("model.embed_tokens.weight"), self._vector("model.norm.weight")
        self.layers = tuple(self._layer(f"model.layers.{i}.") for i in range(self.num_layers))
        self.head = self._matrix("", HEAD)
        if num_positions > len(self._owned.get("cos", ())):
            positions = torch.arange(1 << (num_positions - 1).bit_length(), device=self.embedding.device)
            self.cos, self.sin = rotary_rows(self.model.model, positions[None], self.embedding)
            self._owned |= {"cos": self.cos, "sin": self.sin}
        if num_positions:
            self._addresses["cos"] = self.cos.data_ptr()
        return before != self._addresses

    def _layer(self, prefix: str) -> ViewLayer:
        input_norm = self._vector(f"{prefix}input_layernorm.weight")
        mlp_norm = self._vector(f"{prefix}post_attention_layernorm.weight")
        head_norm = self._head_norm(f"{prefix}self_attn.")
        scale = self.scaling if self._folded and head_norm is None else 1.0
        return ViewLayer(
            input_norm=input_norm,
            qkv=self._matrix(prefix, QKV, norm=input_norm if self._folded else None, scale=scale),
            head_norm=head_norm,
            output=self._matrix(prefix, OUTPUT),
            mlp_norm=mlp_norm,
            gate_up=self._matrix(prefix, GATE_UP, norm=mlp_norm if self._folded else None),
            down=self._matrix(prefix, DOWN),
        )

    def _matrix(self, prefix: str, parts: tuple[str, ...], *, norm: Tensor | None = None, scale: float = 1.0) -> Pair:
        """Return the parts stacked. scale: multiplies the rows of the first part. norm: multiplies all columns."""
        name, modules = prefix + parts[0], [plain_module(self.model.get_submodule(prefix + part)) for part in parts]
        biases = [self._source(f"{prefix}{part}.bias") for part in parts]
        bias = None
        if any(each is not None for each in biases):
            bias = self._place(f"{name}.bias", (sum(m.out_features for m in modules),), self.embedding).zero_()
        weight, start = None, 0
        for i, (part, module) in enumerate(zip(parts, modules, strict=True)):
            rows = slice(start, start := start + module.out_features)
            values, given = self._read(f"{prefix}{part}.weight"), biases[i]
            factor = scale if i == 0 else 1.0
            if bias is not None and given is not None:
                bias[rows] = given if factor == 1.0 else given * factor
            if len(parts) == 1 and norm is None and values.dtype == self.dtype and isinstance(values, nn.Parameter):
                weight = self._noted(name, values.detach())
                continue
            if weight is None:
                shape = (sum(m.out_features for m in modules), module.in_features)
                weight = self._place(name, shape, values)
            values = values if factor == 1.0 else values * factor
            weight[rows] = values if norm is None else values * norm
        assert weight is not None
        return weight, bias

    def _vector(self, name: str) -> Tensor:
        """Return a parameter in its own precision: the model's own memory, unless it had to be gathered."""
        values = self._read(name)
        if isinstance(values, nn.Parameter):  # what is merged or gathered is a tensor of its own
            return self._noted(name, values.detach())
        return self._place(name, tuple(values.shape), values, values.dtype).copy_(values)

    def _head_norm(self, prefix: str) -> Tensor | None:
        if not hasattr(self.model.get_submodule(prefix[:-1]), "q_norm"):
            return None
        query, key = (self._read(f"{prefix}{name}.weight") for name in ("q_norm", "k_norm"))
        shape = (self.num_heads + self.num_kv_heads, self.head_dim)
        place = self._place(f"{prefix}head_norm", shape, query, torch.float32 if self._folded else query.dtype)
        place[: self.num_heads] = query * self.scaling if self._folded else query
        place[self.num_heads :] = key
        return place

    def _read(self, name: str) -> Tensor:
        values = self._source(name)
        assert values is not None
        return values

    def _place(self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the view's own memory of this name, made when it is first asked for."""
        if name not in self._owned:
            self._owned[name] = torch.empty(shape, dtype=dtype or self.dtype, device=like.device)
        return self._noted(name, self._owned[name])

    def _noted(self, name: str, tensor: Tensor) -> Tensor:
        self._addresses[name] = tensor.data_ptr()
        return tensor


def whole_weights(model: Any) -> Source:
    """Return the source that reads a model's modules: adapters merged into what it gives, 4-bit matrices written out.

    Nothing is written to the model; a plain parameter is given itself, not a copy.
    """

    def read(name: str) -> Tensor | None:
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        return effective_weight(module) if kind == "weight" else getattr(plain_module(module), kind)

    return read


def require_served(model: Any) -> None:
    """Raise NotServed unless a causal LM has such a view as it is dressed now."""
    outfit = module_outfit(model)
    if _served_as.get(model) != outfit:
        obstacle = why_not_served(model)
        if obstacle:
            raise NotServed(obstacle)
        _served_as[model] = outfit


_served_as: weakref.WeakKeyDictionary[Any, object] = weakref.WeakKeyDictionary()


def rotary_rows(body: Any, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin at positions [1, T], [T, 1, head_dim] in the precision of `like`; sin's first half is negated.

    With rotate_half's minus sign in it, turning a head is x cos + (its halves swapped) sin.
    """
    cos, sin = body.rotary_emb(like[:1, None], positions)
    half = sin.shape[-1] // 2
    signed = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
    return cos[0, :, None].contiguous(), signed[:, None]
