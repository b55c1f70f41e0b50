"""Decoding any causal LM that keeps keys and values, through its own unmodified forward pass.

Rows are right-aligned: whatever its length, a row's newest token is in the last column. This is the layout of
left-padded generation, so the model's own masks (causal, sliding-window) and positions hold as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from mathgrpo.models import Policy
from mathgrpo.rollout.decoder import Decoder, in_batches

_PREFILL_TOKENS = 8192
_SPARE_COLUMNS = 64


def cached_decoder(policy: Policy) -> Decoder:
    """Return the decoder for models that accept a transformers cache."""

    def open_session(*, max_rows: int, positions: int) -> CachedSession:
        return CachedSession(policy, max_rows=max_rows)

    return Decoder("model forward with slot cache", partial(without_gradients, policy), open_session)


@contextmanager
def without_gradients(policy: Policy) -> Iterator[None]:
    """Enter the context in which the model itself decodes.

    Not inference mode: a model may keep tensors it computes here (rotary buffers), and training must be able to use
    them.
    """
    with torch.no_grad(), policy.autocast():
        yield


class CachedSession:
    """A `Session` that calls the model."""

    def __init__(self, policy: Policy, *, max_rows: int) -> None:
        self._model, self._device = policy.causal_lm, torch.device(policy.device)
        self._takes = set(inspect.signature(self._model.forward).parameters)
        self._max_rows = max_rows
        self._prompt_kv: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._lengths: list[int] = []
        self._column = 0
        self._cache: Cache | None = None

    def prefill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """Compute prompts (number -> ids) once, left-padded in batches of similar length; return next-token logits.

        Shapes: float32[len(prompts), V].
        """
        numbers = list(prompts)
        return in_batches(
            [len(ids) for ids in prompts.values()],
            _PREFILL_TOKENS,
            lambda batch: self._prefill_batch({numbers[i]: prompts[numbers[i]] for i in batch}),
        )

    def _prefill_batch(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        sequences = list(prompts.values())
        width = max(len(ids) for ids in sequences)
        pads = torch.tensor([width - len(ids) for ids in sequences], device=self._device)
        ids = torch.tensor([[*([0] * (width - len(ids))), *ids] for ids in sequences], device=self._device)
        columns = torch.arange(width, device=self._device)
        cache = DynamicCache()
        logits = self._forward(ids, cache, (columns >= pads[:, None]).long(), (columns - pads[:, None]).clamp(min=0))
        for i, prompt in enumerate(prompts):
            start = width - len(sequences[i])
            layers: list[Any] = cache.layers
            self._prompt_kv[prompt] = [
                (layer.keys[i, :, start:].clone(), layer.values[i, :, start:].clone()) for layer in layers
            ]
        return logits

    def _forward(self, ids: Tensor, cache: Cache, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the last column's logits in float32."""
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "past_key_values": cache,
            "attention_mask": mask,
            "use_cache": True,
            "position_ids": positions,
            "logits_to_keep": 1,
        }
        logits: Tensor = self._model(**{k: v for k, v in inputs.items() if k in self._takes}).logits
        return logits[:, -1].float()

    def admit(self, prompts: Sequence[int]) -> None:
        """Append rows, their prompts' memory copied so that it ends at the current column."""
        lengths = [self._prompt_kv[p][0][0].shape[1] for p in prompts]
        self._shift(max(0, max(lengths) - self._column))
        if self._cache is None:
            columns = self._column + _SPARE_COLUMNS
            kinds = self._prompt_kv[prompts[0]]
            self._cache = Cache(layers=[_SlotLayer(k, v, self._max_rows, columns) for k, v in kinds])
        first = len(self._lengths)
        for prompt in dict.fromkeys(prompts):
            rows = [first + i for i, p in enumerate(prompts) if p == prompt]
            for layer, (k, v) in zip(self._slot_layers(), self._prompt_kv[prompt], strict=True):
                layer.fill(rows, k, v, self._column)
        self._lengths += lengths

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row; return next-token logits, float32[R, V]."""
        assert self._cache is not None
        lengths = torch.tensor(self._lengths, device=self._device)
        start = self._column - lengths
        for layer in self._slot_layers():
            layer.begin_step(len(self._lengths), self._column)
        columns = torch.arange(self._column + 1, device=self._device)
        logits = self._forward(tokens[:, None], self._cache, (columns >= start[:, None]).long(), lengths[:, None])
        self._lengths = [length + 1 for length in self._lengths]
        self._column += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, and give up columns that no row needs any more."""
        moved = [(new, old) for new, old in enumerate(rows) if new != old]
        self._lengths = [self._lengths[r] for r in rows]
        for layer in self._slot_layers():
            layer.move(moved, self._column)
        unused = self._column - max(self._lengths, default=0)
        if unused >= _SPARE_COLUMNS:
            self._shift(-unused)

    def _shift(self, columns: int) -> None:
        """Move what all rows hold to the right, or to the left where columns < 0."""
        if columns:
            for layer in self._slot_layers():
                layer.shift(columns, self._column)
            self._column += columns

    def release(self, prompt: int) -> None:
        """Forget a prompt that no row reads."""
        del self._prompt_kv[prompt]

    def _slot_layers(self) -> list[_SlotLayer]:
        return [] if self._cache is None else self._cache.layers  # type: ignore[return-value]


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, KV, columns, D], written in place."""

    is_sliding = False

    def __init__(self, k: Tensor, v: Tensor, slots: int, columns: int) -> None:
        super().__init__()
        self._k = k.new_zeros(slots, k.shape[0], columns, k.shape[2])
        self._v = v.new_zeros(slots, v.shape[0], columns, v.shape[2])
        self._rows, self._column = 0, 0
        self.is_initialized = True

    def fill(self, rows: list[int], k: Tensor, v: Tensor, column: int) -> None:
        """Write a prompt into rows so that it ends before a column."""
        start = column - k.shape[1]
        self._k[rows, :, start:column] = k
        self._v[rows, :, start:column] = v

    def begin_step(self, rows: int, column: int) -> None:
        """Say how many rows take part and which column is written next."""
        self._rows, self._column = rows, column
        self._reserve(column + 1)

    def _reserve(self, columns: int) -> None:
        missing = columns - self._k.shape[2]
        if missing > 0:
            room = (0, 0, 0, max(missing, _SPARE_COLUMNS))
            self._k, self._v = F.pad(self._k, room), F.pad(self._v, room)

    def move(self, moved: list[tuple[int, int]], column: int) -> None:
        """Copy the columns before `column` of rows (new, old)."""
        if moved:
            new, old = (list(side) for side in zip(*moved, strict=True))
            self._k[new, :, :column] = self._k[old, :, :column]
            self._v[new, :, :column] = self._v[old, :, :column]

    def shift(self, columns: int, column: int) -> None:
        """Move the columns before `column` right, or left where columns < 0."""
        self._reserve(column + columns)
        self._k, self._v = self._k.roll(columns, 2), self._v.roll(columns, 2)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the memory is there."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one column and return all columns up to it, of the rows in the batch."""
        end = self._column + 1
        self._k[: self._rows, :, self._column : end] = key_states
        self._v[: self._rows, :, self._column : end] = value_states
        return self._k[: self._rows, :, :end], self._v[: self._rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns attention sees, and the first one's number."""
        return self._column + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many columns are written."""
        return self._column

    def get_max_length(self) -> int:
        """Return -1: the memory grows."""
        return -1

    def get_max_cache_shape(self) -> int:
        """Return -1: the memory grows (the name of `get_max_length` in earlier transformers)."""
        return -1
