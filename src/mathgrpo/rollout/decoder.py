"""What the scheduler asks of a decoder: prompts in, logits out, rows coming and going; and how prompts are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mathgrpo.models import Policy
from mathgrpo.models.policy import resting

_FROZEN_POSITIONS = 4096


def frozen_positions(longest: int) -> int:
    """Return for how many positions weights are laid out that serve many sessions, of which one needs `longest`.

    Example:
        >>> frozen_positions(300), frozen_positions(5000)
        (4096, 8192)
    """
    return max(_FROZEN_POSITIONS, 1 << (longest - 1).bit_length())


class Session(Protocol):
    """Keys and values of the rows in the batch and of their prompts.

    Rows are numbered 0..R-1; `admit` appends rows, `keep` removes and renumbers them. Prompts keep the
    number 0..max_rows that `prefill` gives them until `release`.
    """

    def prefill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """Compute prompts (number -> token ids) once; return their next-token logits, in the mapping's order.

        Shapes: float32[len(prompts), V].
        """
        ...

    def admit(self, prompts: Sequence[int]) -> None:
        """Append one row for each entry, which reads the prompt of that number."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row; return next-token logits.

        Shapes: int64[R] -> [R, V].
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in this order: new row i is old row rows[i], and rows[i] >= i."""
        ...

    def release(self, prompt: int) -> None:
        """Forget a prompt that no row reads; its number may come again."""
        ...


@runtime_checkable
class SamplingSession(Session, Protocol):
    """A session that also draws: many steps in one call, without a look at the logits in between."""

    def advance(
        self, tokens: Tensor, keys: Tensor, ages: Tensor, temperatures: Tensor, *, steps: int, ends: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append each row's token and sample its next, up to `steps` times; stop after a step that sampled an end.

        The draw of row i's k-th new token is the uniform number of stream keys[i] at position ages[i] + k. A row
        whose temperature is negative (its draw is truncated) gets logits instead, and `steps` must be 1.

        Shapes: tokens, keys, ages int64[R], temperatures float64[R], ends int64[E] -> ids int64[R, n], logprobs
        float32[R, n], logits float32[R, V] or empty, 1 <= n <= steps.
        """
        ...


class Decoder(Protocol):
    """Makes sessions that read the policy's weights as they are at that moment."""

    name: str

    def context(self) -> AbstractContextManager[Any]:
        """Return the gradient and precision context sessions live in."""
        ...

    def open(self, *, max_rows: int, positions: int) -> Session:
        """Return an empty session for rows of at most `positions` tokens, their prompts included."""
        ...


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the numbers of sequences in batches, the shortest first, of at most max_tokens with padding, or of one.

    Example:
        >>> batches_by_length([5, 1, 4, 9], 10)
        [[1, 2], [0], [3]]
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[number] <= max_tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def in_order(parts: Sequence[Tensor], batches: Sequence[Sequence[int]]) -> Tensor:
    """Return what was computed batch by batch, a row each sequence, in the order of the sequences."""
    rows = torch.cat(list(parts))
    numbers = torch.tensor([number for batch in batches for number in batch])
    return rows.index_select(0, numbers.argsort().to(rows.device))


_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2}
_ROUNDINGS = 3.0
"""A decoder rounds elsewhere than the model's modules do, so it may be off by more than they are themselves."""


def is_rounding(difference: float, policy: Policy) -> bool:
    """Return whether a difference, as a share of the logits' spread, is what rounding explains; NaN never is.

    In 16 bits that depends on the model: logits that are large beside their spread are rounded coarsely. What passes
    the usual bound passes; beyond it the model's own rounding is measured.
    """
    if difference <= _TOLERANCE.get(policy.compute_dtype, 6e-2):
        return True
    return policy.compute_dtype != torch.float32 and difference <= _ROUNDINGS * rounding_difference(policy)


def rounding_difference(policy: Policy) -> float:
    """Return how far the plain forward pass in the compute precision is from one in float32, as share of the spread.

    The largest difference over the two prompts of a trial.
    """
    exact = replace(policy, compute_dtype=torch.float32)
    rounded, plain = (torch.cat([plain_logits(p, ids) for ids in trial_prompts(policy)]) for p in (policy, exact))
    return float((rounded - plain).abs().max() / plain.std().clamp_min(1e-6))


def trial_prompts(policy: Policy) -> list[list[int]]:
    """Return two prompts of 3 and 6 tokens."""
    rows = policy.model.get_input_embeddings().weight.shape[0]
    return [[(7 * i + 3) % rows for i in range(3)], [(5 * i + 2) % rows for i in range(6)]]


def trial_difference(decoder: Decoder, policy: Policy) -> float:
    """Return the largest difference between a decoder's logits and the plain forward pass, in units of their spread.

    Two prompts of 3 and 6 tokens, two rows each, one decoded token.
    """
    prompts, token = trial_prompts(policy), 4 % policy.model.get_input_embeddings().weight.shape[0]
    with resting(policy.model), decoder.context():
        session = decoder.open(max_rows=4, positions=10)
        first = session.prefill(dict(enumerate(prompts))).clone()
        session.admit([0, 0, 1, 1])
        second = session.step(torch.full((4,), token, dtype=torch.int64, device=policy.device)).float()
    plain_first = torch.stack([plain_logits(policy, ids)[-1] for ids in prompts])
    plain_second = torch.stack([plain_logits(policy, [*ids, token])[-1] for ids in prompts for _ in range(2)])
    plain = torch.cat((plain_first, plain_second))
    spread = plain.std().clamp_min(1e-6)
    return float((torch.cat((first, second)) - plain).abs().max() / spread)


def plain_logits(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Return the logits behind every token of a sequence, float32[T, V]: one full forward pass, no cache."""
    with resting(policy.model), torch.no_grad(), policy.autocast():
        row = torch.tensor([list(ids)], device=policy.device)
        logits: Tensor = policy.causal_lm(input_ids=row, use_cache=False).logits
    return logits[0].float()
