"""Looking at the finished flags without making the device wait."""

from __future__ import annotations

import torch
from torch import Tensor


class FlagPoll:
    """Flags are asked for after some steps and read after some more: by then the copy has long been made.

    Flags only ever rise, so old ones are safe to act on; `clear` forgets them when the places change.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, done: Tensor) -> list[int] | None:
        """Ask for these flags; return the ones asked for before, or None when there are none."""
        before, self._pending = self._pending, self._ask(done)
        if before is None:
            return None
        flags, event = before
        if event is not None:
            event.synchronize()
        return [int(flag) for flag in flags.tolist()]

    def clear(self) -> None:
        """Forget the flags asked for: they belong to places that are no more."""
        self._pending = None

    def _ask(self, done: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if not done.is_cuda:
            return done.clone(), None
        flags = torch.empty(done.shape, dtype=done.dtype, pin_memory=True)
        flags.copy_(done, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return flags, event
