"""What several processes exchange: objects on the host, gradients on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from mathgrpo.distributed.world import PeerLost, T, World
from mathgrpo.errors import first_line

BUCKET_ELEMENTS = 1 << 24
"""Gradient elements summed in one all-reduce (64 MB): large enough for the wire, small beside the gradient itself."""


class Joined(World):
    """Several processes: objects go through gloo, gradients through the device's own gloo or NCCL."""

    def __init__(self, control: Any, store: Any) -> None:
        """control: a gloo process group for objects. store: where stop requests are kept."""
        self._control, self._store = control, store
        self.rank, self.size = control.rank(), control.size()

    def gather(self, value: T) -> list[T]:
        """Return the value of every process, by rank."""
        values: list[Any] = [None] * self.size
        with collective():
            distributed.all_gather_object(values, value, group=self._control)
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what the main process makes."""
        values: list[Any] = [make() if self.is_main else None]
        with collective():
            distributed.broadcast_object_list(values, src=0, group=self._control)
        made: T = values[0]
        return made

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum bucket by bucket, bit for bit the same in each process."""
        masks = self.gather(bytes(parameter.grad is not None for parameter in parameters))
        owned = [p for p, *has in zip(parameters, *masks, strict=True) if any(has)]
        for bucket in buckets(owned):
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            flat = torch.cat([gradient.detach().float().flatten() for gradient in gradients])
            with collective():
                distributed.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            for parameter, gradient, part in zip(bucket, gradients, parts, strict=True):
                parameter.grad = gradient.copy_(part.view_as(gradient))

    def ask_to_stop(self) -> None:
        """Leave word in the store."""
        with collective():
            self._store.set("stop", "1")

    def stop_is_wanted(self) -> bool:
        """Return whether there is word in the store."""
        with collective():
            return bool(self._store.check(["stop"]))


def weights_checksum(parameters: Iterable[Tensor]) -> int:
    """Return a checksum of all bits of the weights, the same for the same weights in whatever order they are added.

    Integers add up exactly, so that processes can compare it; one read of the weights.
    """
    views = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [p.detach().contiguous().view(views[p.element_size()]).sum(dtype=torch.int64) for p in parameters]
    return sum((i + 1) * int(value) for i, value in enumerate(torch.stack(sums).tolist())) if sums else 0


def buckets(parameters: Sequence[Tensor], elements: int = BUCKET_ELEMENTS) -> Iterator[list[Tensor]]:
    """Yield parameters of one device together, of at most so many elements unless one alone has more."""
    bucket: list[Tensor] = []
    used = 0
    for parameter in parameters:
        if bucket and (used + parameter.numel() > elements or parameter.device != bucket[0].device):
            yield bucket
            bucket, used = [], 0
        bucket.append(parameter)
        used += parameter.numel()
    if bucket:
        yield bucket


@contextmanager
def collective() -> Iterator[None]:
    """Turn a failure of torch.distributed into PeerLost.

    Raises: PeerLost.
    """
    try:
        yield
    except RuntimeError as error:  # DistError, NCCL's and gloo's failures and timeouts are all RuntimeErrors
        raise PeerLost(first_line(error)) from error
