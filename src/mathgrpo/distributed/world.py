"""What the processes of a run exchange, as a run of one process sees it: nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class PeerLost(RuntimeError):
    """A collective operation failed, most likely because another process has ended."""


class FollowMain(RuntimeError):
    """All processes fail alike; the main one says how, when it has saved what there is to save."""


class World:
    """The processes of a run as one of them sees them; here it is alone, see `exchange.Joined` for several.

    Every operation but `share` and the questions after a stop is collective: all processes must come to it, in the
    same order.

    Attributes:
        leave_in_order: what is to be done before this process is ended because another one has failed.
    """

    rank = 0
    size = 1
    leave_in_order: Callable[[], None] = staticmethod(lambda: None)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder and speaks to the user: the one of rank 0."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a list that all processes have: every size-th item from rank on."""
        return items[self.rank :: self.size] if self.size > 1 else items

    def gather(self, value: T) -> list[T]:
        """Return the value of every process, by rank."""
        return [value]

    def gather_shares(self, share: Sequence[T]) -> list[T]:
        """Return the list whose `share` each process hands in, in its order."""
        return interleaved(self.gather(list(share)))

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what the main process makes; the others make nothing."""
        return make()

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every parameter's gradient by its sum over the processes, added up in float32.

        A parameter that has a gradient in none of them stays without one.
        """

    def ask_to_stop(self) -> None:
        """Tell the other processes that this one was asked to stop."""

    def stop_is_wanted(self) -> bool:
        """Return whether another process was asked to stop. Each may look whenever it likes."""
        return False


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
