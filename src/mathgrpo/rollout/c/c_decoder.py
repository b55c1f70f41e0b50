"""Decoding on the CPU in compiled C: one call runs many steps, from the last tokens to the next sampled ones.

Serves the models of the fused decoder, in float32, and in bfloat16 where the CPU multiplies it. A row's result is
the same bits in every batch.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mathgrpo.models import Policy
from mathgrpo.models.module_weights import plain_module
from mathgrpo.models.qwen_view import (
    DOWN,
    GATE_UP,
    HEAD,
    OUTPUT,
    QKV,
    Source,
    require_served,
    rotary_rows,
    whole_weights,
)
from mathgrpo.rollout.c import Kernels, load_kernels
from mathgrpo.rollout.c.library import Layer, Matrix, Model
from mathgrpo.rollout.decoder import Decoder, laid_out


def compiled_decoder(policy: Policy, *, frozen: bool = False) -> Decoder:
    """Return the decoder for the policies `why_not_compiled` lets pass; precision is explicit in the packed weights.

    frozen: the weights no longer change, so they are packed once, not anew for each session.
    """
    kernels = load_kernels(policy.compute_dtype)
    packed = laid_out(partial(PackedModel, policy.causal_lm, kernels), frozen=frozen)

    def open_session(*, max_rows: int, positions: int) -> CompiledSession:
        return CompiledSession(kernels, packed(positions), max_rows=max_rows, positions=positions)

    name = f"compiled decoder ({kernels.cpu}, {str(policy.compute_dtype).removeprefix('torch.')})"
    return Decoder(name, torch.inference_mode, open_session)


class CompiledSession:
    """A `SamplingSession` of the compiled decoder."""

    def __init__(self, kernels: Kernels, model: PackedModel, *, max_rows: int, positions: int) -> None:
        self._library, self._model, self._num_rows = kernels.library, model, 0
        self._session = self._library.mg_open(model.pointer, max_rows, positions, max(1, torch.get_num_threads()))
        if not self._session:
            raise MemoryError("no memory for a decoding session")
        weakref.finalize(self, self._library.mg_close, self._session)

    def prefill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """Compute prompts (number -> ids) once; return their next-token logits, float32[n, V]."""
        numbers, lengths = _array(list(prompts)), _array([len(ids) for ids in prompts.values()])
        tokens = _array([token for ids in prompts.values() for token in ids])
        logits = torch.empty(len(prompts), self._model.vocab)
        _checked(self._library.mg_prefill(self._session, len(prompts), numbers, lengths, tokens, logits.data_ptr()))
        return logits

    def admit(self, prompts: Sequence[int]) -> None:
        """Append rows that read these prompts."""
        self._num_rows += len(prompts)
        self._library.mg_admit(self._session, len(prompts), _array(prompts))

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row; return next-token logits, float32[R, V]."""
        undrawn = torch.full((len(tokens),), -1.0, dtype=torch.float64)
        return self.advance(tokens, tokens, tokens, undrawn, steps=1, ends=tokens[:0])[2]

    def advance(
        self, tokens: Tensor, keys: Tensor, ages: Tensor, temperatures: Tensor, *, steps: int, ends: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append each row's token and sample the next, up to `steps` times, until a row has sampled an end.

        Shapes: as in `SamplingSession`.
        """
        rows = self._num_rows
        ids = torch.zeros(rows, steps, dtype=torch.int64)
        logprobs = torch.zeros(rows, steps)
        logits = torch.empty(rows if bool((temperatures < 0).any()) else 0, self._model.vocab)
        last, keys, ages = tokens.clone(), keys.contiguous(), ages.contiguous()
        made = _checked(
            self._library.mg_advance(
                self._session,
                last.data_ptr(),
                keys.data_ptr(),
                ages.data_ptr(),
                temperatures.data_ptr(),
                steps,
                ends.data_ptr(),
                len(ends),
                ids.data_ptr(),
                logprobs.data_ptr(),
                logits.data_ptr(),
            )
        )
        return ids[:, :made], logprobs[:, :made], logits

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in this order."""
        self._num_rows = len(rows)
        self._library.mg_keep(self._session, len(rows), _array(rows))

    def release(self, prompt: int) -> None:
        """Forget a prompt that no row reads."""
        self._library.mg_release(self._session, prompt)


def _array(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _checked(result: int) -> int:
    if result < 0:
        raise MemoryError("no memory for the keys and values of a rollout")
    return result


class PackedModel:
    """A model's weights as they were when it was made; adapters are merged into the panels, never into the model."""

    def __init__(self, causal_lm: Any, kernels: Kernels, num_positions: int, *, source: Source | None = None) -> None:
        """Raises: NotServed when the model has been wrapped or hooked in a way that is not known."""
        require_served(causal_lm)
        self._source, self._causal_lm, self._kernels = source or whole_weights(causal_lm), causal_lm, kernels
        self._alive: list[Any] = []
        config, body = causal_lm.config, causal_lm.model
        embedding = self._read("model.embed_tokens.weight")
        cos, sin = rotary_rows(body, torch.arange(num_positions)[None], embedding)
        layers = (Layer * len(body.layers))(*(self._layer(f"model.layers.{i}.") for i in range(len(body.layers))))
        self._alive.append(layers)
        self.vocab = int(self._module("lm_head").out_features)
        self._model = Model(
            num_layers=len(layers),
            hidden=embedding.shape[1],
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=body.layers[0].self_attn.head_dim,
            ffn=config.intermediate_size,
            vocab=self.vocab,
            eps=config.rms_norm_eps,
            embedding=self._floats(embedding),
            norm=self._floats("model.norm.weight"),
            cos=self._floats(cos),
            sin=self._floats(sin),
            head=self._matrix("", HEAD),
            layers=layers,
        )

    @property
    def pointer(self) -> int:
        """Address of the C structure; valid as long as this object lives."""
        return ctypes.addressof(self._model)

    def _layer(self, prefix: str) -> Layer:
        has_head_norms = hasattr(self._causal_lm.get_submodule(f"{prefix}self_attn"), "q_norm")
        return Layer(
            input_norm=self._floats(f"{prefix}input_layernorm.weight"),
            mlp_norm=self._floats(f"{prefix}post_attention_layernorm.weight"),
            q_norm=self._floats(f"{prefix}self_attn.q_norm.weight") if has_head_norms else None,
            k_norm=self._floats(f"{prefix}self_attn.k_norm.weight") if has_head_norms else None,
            qkv=self._matrix(prefix, QKV),
            out=self._matrix(prefix, OUTPUT),
            gate_up=self._gate_up(prefix),
            down=self._matrix(prefix, DOWN),
        )

    def _module(self, path: str) -> Any:
        return plain_module(self._causal_lm.get_submodule(path))

    def _floats(self, values: Tensor | str) -> int:
        """Return the address of values, or of a parameter, as contiguous float32; a copy only if they are not."""
        kept = self._read(values) if isinstance(values, str) else values.detach().to(torch.float32).contiguous()
        self._alive.append(kept)
        return kept.data_ptr()

    def _read(self, name: str) -> Tensor:
        values = self._source(name)
        assert values is not None
        return values.detach().to(torch.float32).contiguous()

    def _matrix(self, prefix: str, names: tuple[str, ...]) -> Matrix:
        """Return the matrix of layers stacked one after another."""
        parts, first = [], 0
        for name in names:
            parts.append((prefix + name, first, self._kernels.columns, 0))
            first += self._module(prefix + name).out_features
        return self._pack(parts, first)

    def _gate_up(self, prefix: str) -> Matrix:
        """Return both layers in one matrix: each panel holds a vector of gate and the same vector of up."""
        lanes, (gate, up) = self._kernels.lanes, (prefix + name for name in GATE_UP)
        width = -(-self._module(gate).out_features // lanes) * lanes
        return self._pack([(gate, 0, lanes, 0), (up, 0, lanes, lanes)], 2 * width)

    def _pack(self, parts: list[tuple[str, int, int, int]], outputs: int) -> Matrix:
        """Return a matrix of parts (layer, first column, columns of it side by side, lane they start at)."""
        kernels, modules = self._kernels, [self._module(name) for name, *_ in parts]
        inputs = modules[0].in_features
        panels = -(-outputs // kernels.columns)
        steps = -(-inputs // kernels.pair)
        full = outputs == sum(module.out_features for module in modules) and outputs % kernels.columns == 0
        make = torch.empty if full and inputs % kernels.pair == 0 else torch.zeros  # padding must be 0
        packed = make(panels, steps, kernels.columns, kernels.pair, dtype=kernels.element)
        self._alive.append(packed)
        for name, first, group, shift in parts:
            weight = self._read(f"{name}.weight")
            place = (packed.data_ptr(), first, group, shift)
            kernels.library.mg_pack(weight.data_ptr(), weight.shape[0], inputs, *place, torch.get_num_threads())
        bias = self._pack_bias(parts, panels * kernels.columns)
        return Matrix(packed.data_ptr(), None if bias is None else self._floats(bias), outputs, inputs)

    def _pack_bias(self, parts: list[tuple[str, int, int, int]], size: int) -> Tensor | None:
        biases = [self._source(f"{name}.bias") for name, *_ in parts]
        if all(bias is None for bias in biases):
            return None
        packed = torch.zeros(size)
        for (_, first, group, shift), bias in zip(parts, biases, strict=True):
            if bias is not None:
                column = torch.arange(first, first + len(bias))
                place = column // group * self._kernels.columns + shift + column % group
                packed[place] = bias.detach().to(self._kernels.element).float()
        return packed
