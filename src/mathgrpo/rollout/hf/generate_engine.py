"""The fallback engine: transformers' `generate`, for architectures the native engine cannot serve.

Only the forward passes are transformers'. Tokens are drawn by our own sampler with our own counted noise, so the
draws and their log-probabilities mean the same as in the native engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from mathgrpo.models import Policy
from mathgrpo.models.policy import check_context, resting
from mathgrpo.rollout.sampling import row_keys, sample_tokens, uniforms
from mathgrpo.rollout.scheduler import completion_until_end
from mathgrpo.types import Completion, Prompt, Sampling


class GenerateEngine:
    """An `Engine` on `model.generate`: rows stay in the batch until the longest has ended."""

    name = "generate"

    def __init__(self, policy: Policy, *, max_rows: int = 0, reason: str = "") -> None:
        self._policy, self._max_rows, self.reason = policy, max_rows, reason

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        """Return group_size completions of every prompt, in order; result[i][g] is sample g of prompts[i]."""
        check_context(self._policy, prompts, sampling)
        rows = [(i, g) for i in range(len(prompts)) for g in range(group_size)]
        done: dict[tuple[int, int], Completion] = {}
        model = self._policy.causal_lm
        with resting(self._policy.model), _plain_generation(model), torch.no_grad(), self._policy.autocast():
            for batch in self._batches(rows, prompts):
                done.update(zip(batch, self._generate_batch(batch, prompts, sampling), strict=True))
        return [[done[i, g] for g in range(group_size)] for i in range(len(prompts))]

    def _batches(self, rows: list[tuple[int, int]], prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, int]]]:
        """Cut rows into batches of at most max_rows; recurrent models get equal prompt lengths, padding would enter
        their state."""
        size = self._max_rows or len(rows)
        stateful = getattr(self._policy.causal_lm, "_is_stateful", False)
        by_length: dict[int, list[tuple[int, int]]] = {}
        for row in rows:
            by_length.setdefault(len(prompts[row[0]].ids) if stateful else 0, []).append(row)
        for members in by_length.values():
            for start in range(0, len(members), size):
                yield members[start : start + size]

    def _generate_batch(
        self, batch: list[tuple[int, int]], prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Completion]:
        device, pad = self._policy.device, self._policy.tokenizer.pad_token_id or 0
        sequences = [prompts[i].ids for i, _ in batch]
        width = max(len(ids) for ids in sequences)
        ids = torch.tensor([[*([pad] * (width - len(s))), *s] for s in sequences], device=device)
        mask = torch.tensor([[*([0] * (width - len(s))), *([1] * len(s))] for s in sequences], device=device)
        keys = row_keys(sampling.seed, [prompts[i].key for i, _ in batch], [g for _, g in batch]).to(device)
        sampler = _Sampler(keys, sampling)
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=list(self._policy.eos_ids) or None,
        )
        self._policy.causal_lm.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([sampler]),
        )
        drawn, logprobs = torch.stack(sampler.ids, 1).tolist(), torch.stack(sampler.logprobs, 1).tolist()
        ends = set(self._policy.eos_ids)
        return [completion_until_end(i, p, ends) for i, p in zip(drawn, logprobs, strict=True)]


class _Sampler(LogitsProcessor):
    """Draws each step's tokens, notes them, and leaves generate's argmax no other choice."""

    def __init__(self, keys: Tensor, sampling: Sampling) -> None:
        self._keys, self._sampling = keys, sampling
        self.ids: list[Tensor] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        position = torch.full_like(self._keys, len(self.ids))
        ids, logprobs = sample_tokens(scores, uniforms(self._keys, position), self._sampling)
        self.ids.append(ids)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter(1, ids[:, None], 0.0)


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Set the model's own generation defaults aside: a repetition penalty there would change the distribution."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
