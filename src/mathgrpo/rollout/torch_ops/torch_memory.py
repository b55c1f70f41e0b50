"""Keys and values of a fused session: one copy of each prompt, one slot for each row's completion.

Shapes: R rows, P prompts in use, G rows of a prompt at most, KV key-value heads, E query heads for each of them,
D head_dim, L prompt length, T completion length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mathgrpo.models.qwen_view import QwenView

_FIRST_COLUMNS = 64
"""Completion columns allocated at first; doubled when full, so that short completions need little memory."""


class RowMemory:
    """Prompt and completion memory with the index tensors that join them."""

    def __init__(self, model: QwenView, *, max_rows: int, positions: int) -> None:
        layers, kv_heads, dim, dtype = len(model.layers), model.num_kv_heads, model.head_dim, model.dtype
        self._kv_heads, self._share, self._dim = kv_heads, model.num_heads // kv_heads, dim
        self._scale = dim**-0.5
        self._device, self._most_columns = model.embedding.device, positions
        device = self._device
        self._row_prompt: list[int] = []
        self._ages: list[int] = []
        self._slots: list[int] = []
        self._lengths: list[int] = []
        self._prompt_kv = torch.zeros(2, layers, 0, kv_heads, 0, dim, dtype=dtype, device=device)
        columns = min(positions, _FIRST_COLUMNS)
        self._row_kv = torch.zeros(2, layers, max_rows, kv_heads, columns, dim, dtype=dtype, device=device)
        self._stale = True
        self._mask: Tensor | None = None
        self._step_mask: Tensor | None = None
        self._same_age, self._ordered = True, False
        self._num_rows = self._num_prompts = self._width = self._span = self._prompt_span = 0
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        self._positions, self._columns, self._rows = nothing, nothing, nothing
        self._to_rows, self._to_grid = nothing, nothing

    def widen(self, length: int) -> None:
        """Make room for prompts of this length."""
        missing = length - self._prompt_kv.shape[4]
        if missing > 0:
            self._prompt_kv = F.pad(self._prompt_kv, (0, 0, 0, missing))

    def new_prompts(self, prompts: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return the memory slots given to these prompts."""
        first = len(self._slots)
        self._slots += list(prompts)
        self._lengths += list(lengths)
        have = self._prompt_kv.shape[2]
        if len(self._slots) > have:
            shape = list(self._prompt_kv.shape)
            shape[2] = len(self._slots) - have if have == 0 else max(len(self._slots) - have, have)
            self._prompt_kv = torch.cat((self._prompt_kv, self._prompt_kv.new_zeros(shape)), dim=2)
        return list(range(first, len(self._slots)))

    def write_prompts(self, layer: int, slots: Sequence[int], k: Tensor, v: Tensor) -> None:
        """Store a layer's keys and values of consecutive slots. Shapes: [n, KV, L, D]."""
        target = self._prompt_kv[:, layer, slots[0] : slots[-1] + 1, :, : k.shape[2]]
        target[0].copy_(k)
        target[1].copy_(v)

    def admit(self, prompts: Sequence[int]) -> None:
        """Append one row for each prompt named."""
        self._row_prompt += [self._slots.index(p) for p in prompts]
        self._ages += [0] * len(prompts)
        self._stale = True

    def release(self, prompt: int) -> None:
        """Move the last prompt into the slot of one that no row reads."""
        slot, last = self._slots.index(prompt), len(self._slots) - 1
        if slot != last:
            self._prompt_kv[:, :, slot] = self._prompt_kv[:, :, last]
            self._slots[slot], self._lengths[slot] = self._slots[last], self._lengths[last]
            self._row_prompt = [slot if p == last else p for p in self._row_prompt]
        del self._slots[last], self._lengths[last]
        self._stale = True

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows; only rows that change their number are copied."""
        moved = [(new, old) for new, old in enumerate(rows) if new != old]
        if moved:
            new, old = (torch.tensor(side, device=self._device) for side in zip(*moved, strict=True))
            span = max(self._ages[r] for r in rows)
            self._row_kv[:, :, new, :, :span] = self._row_kv[:, :, old, :, :span]
        self._row_prompt = [self._row_prompt[r] for r in rows]
        self._ages = [self._ages[r] for r in rows]
        self._stale = True

    def begin_step(self) -> Tensor:
        """Make room for one token in every row; return the tokens' positions, int64[R]."""
        if self._stale:
            self._index_rows()
        if self._span > self._row_kv.shape[4]:
            self._grow()
        self._step_mask = None if self._mask is None else self._mask_now(self._mask)
        return self._positions

    def end_step(self) -> None:
        """Count the token every row has got."""
        self._ages = [age + 1 for age in self._ages]
        self._positions = self._positions + 1
        self._columns = self._columns + 1
        self._span += 1

    def _grow(self) -> None:
        """Double the completion columns; only rows in the batch are copied."""
        shape = list(self._row_kv.shape)
        columns = shape[4]
        shape[4] = min(2 * columns, self._most_columns)
        grown = self._row_kv.new_zeros(shape)
        grown[:, :, : self._num_rows, :, :columns] = self._row_kv[:, :, : self._num_rows]
        self._row_kv = grown

    def _index_rows(self) -> None:
        """Rebuild what depends on which rows there are: the group grid, positions, masks."""
        device, kv = self._device, self._kv_heads
        rows, prompts = len(self._row_prompt), len(self._slots)
        column, counts = [], [0] * prompts
        for prompt in self._row_prompt:
            column.append(counts[prompt])
            counts[prompt] += 1
        width = max(counts)
        self._num_rows, self._num_prompts, self._width = rows, prompts, width
        self._span, self._same_age = max(self._ages) + 1, min(self._ages) == max(self._ages)
        self._prompt_span = max(self._lengths)

        prompt_of, column_of = torch.tensor(self._row_prompt), torch.tensor(column)
        heads = torch.arange(kv)
        to_rows = ((prompt_of[:, None] * kv + heads) * width + column_of[:, None]).flatten()
        self._ordered = rows == prompts * width and kv == 1 and bool((to_rows == torch.arange(rows)).all())
        to_grid = torch.zeros(prompts * kv * width, dtype=torch.int64)
        to_grid[to_rows] = torch.arange(rows * kv)
        self._to_rows, self._to_grid = to_rows.to(device), to_grid.to(device)

        ages, lengths = torch.tensor(self._ages, device=device), torch.tensor(self._lengths, device=device)
        lengths = lengths.index_select(0, prompt_of.to(device))
        self._positions, self._columns = lengths + ages, ages
        self._rows = torch.arange(rows, device=device)
        ragged = not self._same_age or min(self._lengths) != self._prompt_span
        hidden = torch.arange(self._prompt_span, device=device) >= lengths[:, None]
        self._mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf) if ragged else None
        self._stale = False

    def _mask_now(self, prompt_mask: Tensor) -> Tensor:
        """Return what hides prompt padding and columns a row has not reached, float32[R, 1, L + T]."""
        own = prompt_mask.new_zeros(self._num_rows, self._span)
        if not self._same_age:
            own.masked_fill_(torch.arange(self._span, device=self._device) > self._columns[:, None], -torch.inf)
        return torch.cat((prompt_mask, own), dim=1)[:, None]

    def write_step(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store a layer's key and value of every row's new token. Shapes: [R, KV, D]."""
        for side, new in enumerate((k, v)):
            memory = self._row_kv[side, layer]
            if self._same_age:
                memory[: self._num_rows, :, self._span - 1] = new
            else:
                memory[self._rows, :, self._columns] = new

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Return the attention output of every row's new token over its prompt and its completion.

        Shapes: q [R, KV * E, D] -> [R, KV * E * D].
        """
        rows, kv, share, dim = self._num_rows, self._kv_heads, self._share, self._dim
        q, scale = (q * self._scale, 1.0) if q.dtype == torch.float32 else (q, self._scale)
        q = q.reshape(rows * kv, share, dim)
        own_k, own_v = (self._row_kv[i, layer, :rows].flatten(0, 1)[:, : self._span] for i in (0, 1))
        prompt_k, prompt_v = (
            self._prompt_kv[i, layer, : self._num_prompts].flatten(0, 1)[:, : self._prompt_span] for i in (0, 1)
        )
        scores = torch.cat(
            (
                self._rows_from_grid(matmul(self._grid_from_rows(q), prompt_k.transpose(1, 2))),
                matmul(q, own_k.transpose(1, 2)),
            ),
            dim=-1,
        )
        if scale != 1.0:  # low precision: scaling the queries would round them once more than the trainer does
            scores.mul_(scale)
        if self._step_mask is not None:
            scores = scores.view(rows, kv * share, -1).add_(self._step_mask).view(rows * kv, share, -1)
        weights = scores.softmax(-1).to(q.dtype)
        from_prompt = matmul(self._grid_from_rows(weights[..., : self._prompt_span]), prompt_v)
        from_own = matmul(weights[..., self._prompt_span :], own_v)
        return from_own.add_(self._rows_from_grid(from_prompt)).to(q.dtype).view(rows, kv * share * dim)

    def _grid_from_rows(self, x: Tensor) -> Tensor:
        """Lay rows out group by group: [R * KV, E, n] -> [P * KV, G * E, n]; unfilled places repeat row 0."""
        gathered = x if self._ordered else x.index_select(0, self._to_grid)
        return gathered.reshape(self._num_prompts * self._kv_heads, self._width * self._share, -1)

    def _rows_from_grid(self, x: Tensor) -> Tensor:
        """Undo `_grid_from_rows`: [P * KV, G * E, n] -> [R * KV, E, n]."""
        x = x.view(self._num_prompts * self._kv_heads * self._width, self._share, -1)
        return x if self._ordered else x.index_select(0, self._to_rows)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a batched matrix product in float32, whatever the inputs: attention scores must not be rounded to bf16."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
