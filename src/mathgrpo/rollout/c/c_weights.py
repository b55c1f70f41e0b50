"""The compiled decoder's view of a Qwen2 / Qwen3 / Llama model: weights in the panels its matrix product reads."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from mathgrpo.models.qwen_view import Block, blocks_of, effective_weight, rotary_rows
from mathgrpo.rollout.c import Kernels
from mathgrpo.rollout.c.library import Layer, Matrix, Model


class PackedModel:
    """A model's weights as they were when it was made; adapters are merged into the panels, never into the model."""

    def __init__(self, causal_lm: Any, kernels: Kernels, num_positions: int) -> None:
        self._kernels, self.num_positions = kernels, num_positions
        self._alive: list[Any] = []
        config, body = causal_lm.config, causal_lm.model
        embedding = body.embed_tokens.weight
        cos, sin = rotary_rows(body, torch.arange(num_positions)[None], embedding)
        blocks = blocks_of(causal_lm)
        layers = (Layer * len(blocks))(*(self._layer(block) for block in blocks))
        self._alive.append(layers)
        self.vocab = int(causal_lm.lm_head.weight.shape[0])
        self._model = Model(
            num_layers=len(layers),
            hidden=embedding.shape[1],
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=blocks[0].head_dim,
            ffn=config.intermediate_size,
            vocab=self.vocab,
            eps=config.rms_norm_eps,
            embedding=self._floats(embedding),
            norm=self._floats(body.norm.weight),
            cos=self._floats(cos),
            sin=self._floats(sin),
            head=self._matrix(causal_lm.lm_head),
            layers=layers,
        )

    @property
    def pointer(self) -> int:
        """Address of the C structure; valid as long as this object lives."""
        return ctypes.addressof(self._model)

    def _layer(self, block: Block) -> Layer:
        q_norm, k_norm = (self._floats(norm) for norm in block.head_norms) if block.head_norms else (None, None)
        return Layer(
            input_norm=self._floats(block.input_norm),
            mlp_norm=self._floats(block.mlp_norm),
            q_norm=q_norm,
            k_norm=k_norm,
            qkv=self._matrix(*block.qkv),
            out=self._matrix(*block.output),
            gate_up=self._gate_up(*block.gate_up),
            down=self._matrix(*block.down),
        )

    def _floats(self, values: Tensor) -> int:
        """Return the address of the values as contiguous float32; a view where they are that already."""
        kept = values.detach().to(torch.float32).contiguous()
        self._alive.append(kept)
        return kept.data_ptr()

    def _matrix(self, *modules: Any) -> Matrix:
        """Return the matrix of layers stacked one after another."""
        parts, first = [], 0
        for module in modules:
            parts.append((module, first, self._kernels.columns, 0))
            first += module.out_features
        return self._pack(parts, first)

    def _gate_up(self, gate: Any, up: Any) -> Matrix:
        """Return both layers in one matrix: each panel holds a vector of gate and the same vector of up."""
        lanes = self._kernels.lanes
        width = -(-gate.out_features // lanes) * lanes
        return self._pack([(gate, 0, lanes, 0), (up, 0, lanes, lanes)], 2 * width)

    def _pack(self, parts: list[tuple[Any, int, int, int]], outputs: int) -> Matrix:
        """Return a matrix of parts (layer, first column, columns of it side by side, lane they start at)."""
        kernels = self._kernels
        inputs = parts[0][0].in_features
        panels = -(-outputs // kernels.columns)
        steps = -(-inputs // kernels.pair)
        full = outputs == sum(part[0].out_features for part in parts) and outputs % kernels.columns == 0
        make = torch.empty if full and inputs % kernels.pair == 0 else torch.zeros  # padding must be 0
        packed = make(panels, steps, kernels.columns, kernels.pair, dtype=kernels.element)
        self._alive.append(packed)
        for module, first, group, shift in parts:
            weight = effective_weight(module).detach().to(torch.float32).contiguous()
            place = (packed.data_ptr(), first, group, shift)
            kernels.library.mg_pack(weight.data_ptr(), weight.shape[0], inputs, *place, torch.get_num_threads())
        bias = None
        if any(module.bias is not None for module, *_ in parts):
            bias = self._floats(self._pack_bias(parts, panels * kernels.columns))
        return Matrix(packed.data_ptr(), bias, outputs, inputs)

    def _pack_bias(self, parts: list[tuple[Any, int, int, int]], size: int) -> Tensor:
        packed = torch.zeros(size)
        for module, first, group, shift in parts:
            if module.bias is None:
                continue
            column = torch.arange(first, first + module.bias.shape[0])
            place = column // group * self._kernels.columns + shift + column % group
            packed[place] = module.bias.detach().to(self._kernels.element).float()
        return packed
