"""Decoding any causal LM prompt by prompt, with whatever memory the model itself keeps, or none.

Rows that are admitted together on one prompt have one length, so they go through the model as one batch without
padding, which would enter a recurrent state. The memory is the model's own affair: it is handed back as it came. A
model that keeps none, or none that works, reads its rows anew for every token.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mathgrpo.models import Policy
from mathgrpo.rollout.decoder import Decoder
from mathgrpo.rollout.hf.cached_decoder import without_gradients

_MEMORIES = ("past_key_values", "cache_params")
"""How transformers' models call their memory, in what they take and what they return."""


def grouped_decoder(policy: Policy, *, remember: bool = True) -> Decoder:
    """Return the decoder that needs nothing of a model but its logits. remember=False: rows are read anew."""

    def open_session(*, max_rows: int, positions: int) -> GroupedSession:
        return GroupedSession(policy, remember=remember)

    name = f"model forward, {'prompt by prompt' if remember else 'rows read anew'}, slow"
    return Decoder(name, partial(without_gradients, policy), open_session, slow=True)


class _Group:
    """Rows admitted together on one prompt: ids [n, length] of those that have ended too, and the model's memory."""

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.memory = ids, dict[str, Any]()


class GroupedSession:
    """A `Session` of the grouped decoder."""

    def __init__(self, policy: Policy, *, remember: bool) -> None:
        self._model, self._device, self._remember = policy.causal_lm, policy.device, remember
        takes = inspect.signature(self._model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._prompts: dict[int, Sequence[int]] = {}
        self._rows: list[tuple[_Group, int]] = []

    def prefill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """Return the next-token logits of prompts (number -> token ids), float32[n, V]."""
        self._prompts |= prompts
        return torch.cat([self._forward(_Group(self._repeated(prompt, 1)), remember=False) for prompt in prompts])

    def _repeated(self, prompt: int, count: int) -> Tensor:
        return torch.tensor([list(self._prompts[prompt])], device=self._device).repeat(count, 1)

    def _forward(self, group: _Group, *, remember: bool) -> Tensor:
        """Return the logits behind the group's last tokens: from those alone where the rest is in memory."""
        ids = group.ids[:, -1:] if group.memory else group.ids
        output = self._model(input_ids=ids, use_cache=remember, **group.memory, **self._last_only)
        if remember:
            group.memory = {name: output[name] for name in _MEMORIES if output.get(name) is not None}
        logits: Tensor = output.logits
        return logits[:, -1].float()

    def admit(self, prompts: Sequence[int]) -> None:
        """Append rows that begin with these prompts."""
        groups = {prompt: _Group(self._repeated(prompt, prompts.count(prompt))) for prompt in dict.fromkeys(prompts)}
        self._rows += [(groups[prompt], prompts[:i].count(prompt)) for i, prompt in enumerate(prompts)]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row; return next-token logits, float32[R, V]."""
        lines: dict[tuple[_Group, int], Tensor] = {}
        for group in dict.fromkeys(group for group, _ in self._rows):
            column = group.ids.new_zeros(len(group.ids), 1)
            for (owner, place), token in zip(self._rows, tokens, strict=True):
                if owner is group:
                    column[place] = token
            group.ids = torch.cat((group.ids, column), dim=1)
            logits = self._forward(group, remember=self._remember)
            lines |= {(group, place): line for place, line in enumerate(logits)}
        return torch.stack([lines[row] for row in self._rows])

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in this order; a group whose rows have all gone goes with them."""
        self._rows = [self._rows[row] for row in rows]

    def release(self, prompt: int) -> None:
        """Forget a prompt."""
        del self._prompts[prompt]
