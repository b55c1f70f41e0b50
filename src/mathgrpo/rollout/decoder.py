"""What the scheduler asks of a decoder: prompts in, logits out, rows coming and going; and how prompts are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from mathgrpo.types import Completion


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


class OpenSession(Protocol):
    """Opens an empty session for rows of at most `positions` tokens, their prompts included."""

    def __call__(self, *, max_rows: int, positions: int) -> Session: ...


@dataclass(frozen=True, slots=True)
class Decoder:
    """A way to decode a policy; its sessions read the weights as they are when they are opened.

    Attributes:
        name: for the run's log.
        context: makes the gradient and precision context that sessions live in.
        open: makes a session.
        slow: whether it only is there for models that no other serves.
    """

    name: str
    context: Callable[[], AbstractContextManager[Any]]
    open: OpenSession
    slow: bool = False


_FROZEN_POSITIONS = 4096

Laid = TypeVar("Laid")


def laid_out(make: Callable[[int], Laid], *, frozen: bool) -> Callable[[int], Laid]:
    """Return what lays weights out for a number of positions: for each session anew, or once if they are frozen.

    Example:
        >>> once = laid_out(lambda positions: [positions], frozen=True)
        >>> once(300), once(20) is once(300), once(5000)
        ([4096], True, [8192])
    """
    kept: dict[str, tuple[int, Laid]] = {}

    def for_positions(positions: int) -> Laid:
        if not kept or kept["now"][0] < positions:
            longest = max(_FROZEN_POSITIONS, 1 << (positions - 1).bit_length())
            kept["now"] = longest, make(longest)
        return kept["now"][1]

    return for_positions if frozen else make


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


def in_batches(lengths: Sequence[int], max_tokens: int, compute: Callable[[list[int]], Tensor]) -> Tensor:
    """Return a row for each sequence, in their order, computed for batches of their numbers: see batches_by_length."""
    batches = batches_by_length(lengths, max_tokens)
    rows = torch.cat([compute(batch) for batch in batches])
    numbers = torch.tensor([number for batch in batches for number in batch])
    return rows.index_select(0, numbers.argsort().to(rows.device))


def completion_until_end(ids: list[int], logprobs: list[float], ends: set[int]) -> Completion:
    """Return the completion that a row of sampled ids is: everything up to its first end token."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
    length = stop if stop is not None else len(ids)
    return Completion(tuple(ids[:length]), tuple(logprobs[:length]), "length" if stop is None else "eos")
