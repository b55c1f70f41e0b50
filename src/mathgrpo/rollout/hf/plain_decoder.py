"""Decoding any causal LM by reading each row anew for every token: for models that keep no keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from mathgrpo.models import Policy


class PlainDecoder:
    """A `Decoder` that needs nothing of a model but its logits."""

    name = "model forward, rows read anew"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def context(self) -> AbstractContextManager[Any]:
        """Return a context without gradients; precision is entered where the model is called."""
        return torch.no_grad()

    def open(self, *, max_rows: int, positions: int) -> PlainSession:
        """Return an empty session on the model."""
        return PlainSession(self._policy)


class PlainSession:
    """A `Session` of the plain decoder: its memory is the rows' tokens."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._prompts: dict[int, Sequence[int]] = {}
        self._rows: list[list[int]] = []

    def prefill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """Return the next-token logits of prompts (number -> token ids), float32[n, V]."""
        self._prompts |= prompts
        return torch.stack([self._logits(ids) for ids in prompts.values()])

    def _logits(self, ids: Sequence[int]) -> Tensor:
        with self._policy.autocast():
            inputs = torch.tensor([list(ids)], device=self._policy.device)
            logits: Tensor = self._policy.causal_lm(input_ids=inputs, use_cache=False).logits
        return logits[0, -1].float()

    def admit(self, prompts: Sequence[int]) -> None:
        """Append rows that begin with these prompts."""
        self._rows += [list(self._prompts[prompt]) for prompt in prompts]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row; return next-token logits, float32[R, V]."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        return torch.stack([self._logits(row) for row in self._rows])

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in this order."""
        self._rows = [self._rows[row] for row in rows]

    def release(self, prompt: int) -> None:
        """Forget a prompt."""
        del self._prompts[prompt]
