"""What the processes of a run exchange: objects on the host, gradients on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from mathgrpo.errors import first_line

T = TypeVar("T")

BUCKET_ELEMENTS = 1 << 24
"""Gradient elements summed in one all-reduce (64 MB): large enough for the wire, small beside the gradient itself."""


class PeerLost(RuntimeError):
    """A collective operation failed, most likely because another process has ended."""


class FollowMain(RuntimeError):
    """All processes fail alike; the main one says how, when it has saved what there is to save."""


class World:
    """The processes of a run as one of them sees them. Without a process group it is alone: nothing is exchanged.

    Every operation but `share` and the questions after a stop is collective: all processes must come to it, in the
    same order. For the host gloo is used, for the device gloo or NCCL.
    """

    rank = 0
    size = 1

    def __init__(self, control: Any = None, store: Any = None) -> None:
        """control: a gloo process group for objects. store: where stop requests are kept."""
        self._control, self._store = control, store
        self.leave_in_order: Callable[[], None] = lambda: None
        """What is to be done here before this process is ended because another one has failed."""
        if control is not None:
            self.rank, self.size = control.rank(), control.size()

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder and speaks to the user: the one of rank 0."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a list that all processes have: every size-th item from rank on."""
        return items[self.rank :: self.size] if self.size > 1 else items

    def gather(self, value: T) -> list[T]:
        """Return the value of every process, by rank."""
        values: list[Any] = [value] * self.size
        if self._control is not None:
            with collective():
                distributed.all_gather_object(values, value, group=self._control)
        return values

    def gather_shares(self, share: Sequence[T]) -> list[T]:
        """Return the list whose `share` each process hands in, in its order."""
        return interleaved(self.gather(list(share)))

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what the main process makes; the others make nothing."""
        values: list[Any] = [make() if self.is_main else None]
        if self._control is not None:
            with collective():
                distributed.broadcast_object_list(values, src=0, group=self._control)
        made: T = values[0]
        return made

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, bit for bit the same in each."""
        if self._control is not None:
            with collective():
                distributed.all_reduce(tensor)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every parameter's gradient by its sum over the processes, added up in float32.

        A parameter that has a gradient in none of them stays without one.
        """
        if self._control is None:
            return
        masks = self.gather(bytes(parameter.grad is not None for parameter in parameters))
        owned = [p for p, *has in zip(parameters, *masks, strict=True) if any(has)]
        for bucket in buckets(owned):
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            flat = torch.cat([gradient.detach().float().flatten() for gradient in gradients])
            self.sum_(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            for parameter, gradient, part in zip(bucket, gradients, parts, strict=True):
                parameter.grad = gradient.copy_(part.view_as(gradient))

    def ask_to_stop(self) -> None:
        """Tell the other processes that this one was asked to stop."""
        if self._store is not None:
            with collective():
                self._store.set("stop", "1")

    def stop_is_wanted(self) -> bool:
        """Return whether another process was asked to stop. Each may look whenever it likes."""
        with collective():
            return self._store is not None and bool(self._store.check(["stop"]))


SINGLE = World()
"""A run of one process."""


def interleaved(shares: Sequence[Sequence[T]]) -> list[T]:
    """Return the list that was dealt out to processes in turn.

    Example:
        >>> interleaved([["a", "c", "e"], ["b", "d"]])
        ['a', 'b', 'c', 'd', 'e']
    """
    size, total = len(shares), sum(map(len, shares))
    return [shares[i % size][i // size] for i in range(total)]


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


def weights_checksum(parameters: Sequence[Tensor]) -> int:
    """Return a checksum of all bits of the weights, the same for the same weights in whatever order they are added.

    Integers add up exactly, so that processes can compare it; one read of the weights.
    """
    views = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [p.detach().contiguous().view(views[p.element_size()]).sum(dtype=torch.int64) for p in parameters]
    return sum((i + 1) * int(value) for i, value in enumerate(torch.stack(sums).tolist())) if sums else 0


@contextmanager
def collective() -> Iterator[None]:
    """Turn a failure of torch.distributed into PeerLost.

    Raises: PeerLost.
    """
    try:
        yield
    except RuntimeError as error:  # DistError, NCCL's and gloo's failures and timeouts are all RuntimeErrors
        raise PeerLost(first_line(error)) from error
