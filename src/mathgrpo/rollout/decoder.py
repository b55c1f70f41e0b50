"""What the native engine asks of a decoder: prompts in, logits out, rows coming and going."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor


class Session(Protocol):
    """The key-value memory of one generate call.

    Rows are numbered 0..R-1; `admit` appends rows, `keep` removes and renumbers them.
    """

    def prefill(self, prompts: Sequence[int]) -> Tensor:
        """Compute these prompts (indices into the call's prompts) once; return their next-token logits.

        Shapes: float32[len(prompts), V].
        """
        ...

    def admit(self, prompts: Sequence[int]) -> None:
        """Append one row for each entry, reading the memory of that prefilled prompt."""
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
        """Say that no further row will read this prompt."""
        ...


class Decoder(Protocol):
    """Makes sessions that read the policy's weights as they are at that moment."""

    name: str

    def context(self) -> AbstractContextManager[Any]:
        """Return the gradient and precision context sessions live in."""
        ...

    def open(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, max_rows: int) -> Session:
        """Return an empty session for these prompts (token ids)."""
        ...
