"""The compute copies of an optimizer, in the model only while it samples and learns.

Callbacks, reward functions and scripts meet the model with its float32 masters: one whose layers alone are in bfloat16
fails outside autocast, and would be saved in that precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mathgrpo.optim.master_adamw import MasterAdamW


class ComputeCopies:
    """Compute copies that can be put in and taken out; for an optimizer without any, nothing happens."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        masters = optimizer.masters if isinstance(optimizer, MasterAdamW) else {}
        self._masters = dict(masters)
        self._copies = {parameter: parameter.data for parameter in masters}
        self._take_out()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put copies of the masters as they are now into the model inside the block."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), [master.data for master in self._masters.values()])
        for parameter, copy in self._copies.items():
            parameter.data = copy
        try:
            yield
        finally:
            self._take_out()

    def _take_out(self) -> None:
        for parameter, master in self._masters.items():
            parameter.data = master.data
