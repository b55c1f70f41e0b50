"""Supervised examples as tensors: tokenised, sorted by length, cut into batches of a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import torch
from torch import Tensor

from mathgrpo.formats import Format
from mathgrpo.formats.chat import prompt_text
from mathgrpo.supervised.mixture import Example

_POOL = 4096
_MULTIPLE = 8
"""Batch widths are rounded up to this, so that a CPU meets few shapes (it keeps a compiled primitive for each)."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """One batch, right-padded. N sequences of T tokens.

    Attributes:
        ids_NT: token ids.
        lengths_N: tokens of each sequence, padding not counted.
        prompt_lengths_N: how many of them are prompt.
    """

    ids_NT: Tensor
    lengths_N: Tensor
    prompt_lengths_N: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.lengths_N.sum())

    def to(self, device: str) -> Sequences:
        """Return the batch on a device."""
        return Sequences(self.ids_NT.to(device), self.lengths_N.to(device), self.prompt_lengths_N.to(device))


def batches(
    source: Iterator[Example], tokenizer: Any, fmt: Format, batch_tokens: int, seed: int
) -> Iterator[Sequences]:
    """Yield batches without end. Examples are sorted by length within pools, so little is padding."""
    rng = Random(seed)
    while True:
        rows = sorted(encode(list(islice(source, _POOL)), tokenizer, fmt), key=lambda row: len(row[0]) + len(row[1]))
        pool = list(_cut(rows, batch_tokens))
        rng.shuffle(pool)
        for batch in pool:
            yield collate(batch, tokenizer.pad_token_id)


def encode(examples: Sequence[Example], tokenizer: Any, fmt: Format) -> list[tuple[list[int], list[int]]]:
    """Return (prompt ids, completion ids with the end token) for each example."""
    prompts = tokenizer([prompt_text(tokenizer, e.question, fmt) for e in examples], add_special_tokens=False)
    completions = tokenizer([e.completion for e in examples], add_special_tokens=False)
    ends = [tokenizer.eos_token_id]
    return [(p, c + ends) for p, c in zip(prompts["input_ids"], completions["input_ids"], strict=True)]


def _cut(rows: Sequence[tuple[list[int], list[int]]], batch_tokens: int) -> Iterator[list[tuple[list[int], list[int]]]]:
    batch: list[tuple[list[int], list[int]]] = []
    for row in rows:
        width = len(row[0]) + len(row[1])
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def collate(rows: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Sequences:
    """Return rows as one right-padded batch."""
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    width = -(-max(lengths) // _MULTIPLE) * _MULTIPLE
    ids = torch.full((len(rows), width), pad_id)
    for i, (prompt, completion) in enumerate(rows):
        ids[i, : lengths[i]] = torch.tensor(prompt + completion)
    return Sequences(ids, torch.tensor(lengths), torch.tensor([len(prompt) for prompt, _ in rows]))


def loss_weights(batch: Sequences, prompt_weight: float) -> Tensor:
    """Return how much predicting token t+1 at position t counts: 1 in the completion, prompt_weight before, 0 after.

    Shapes: [N, T - 1].
    """
    target = torch.arange(1, batch.ids_NT.shape[1], device=batch.ids_NT.device)
    inside = target < batch.lengths_N[:, None]
    completion = target >= batch.prompt_lengths_N[:, None]
    return torch.where(completion, 1.0, prompt_weight) * inside
