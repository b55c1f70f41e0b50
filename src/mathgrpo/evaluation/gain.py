"""Where a gain comes from: format, choosing to work, better arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import permutations

from mathgrpo.evaluation.compare import paired_records
from mathgrpo.evaluation.records import Evaluation, GradedCompletion, Metric, ProblemRecord


@dataclass(frozen=True, slots=True)
class Rates:
    """The chain behind an accuracy: accuracy = readable · (worked · right_worked + (1 - worked) · right_quick).

    Attributes:
        readable: share of completions whose answer can be read in the format.
        worked: among those, the share that works the problem out before answering; None if there are none.
        right_worked: accuracy of the readable completions that work; None if there are none.
        right_quick: accuracy of the readable completions that answer at once; None if there are none.
    """

    readable: float
    worked: float | None
    right_worked: float | None
    right_quick: float | None


@dataclass(frozen=True, slots=True)
class GainParts:
    """A gain in accuracy, in percentage points, split by cause; the parts sum to the gain."""

    format: float
    working: float
    arithmetic: float

    @property
    def total(self) -> float:
        """The whole gain in points."""
        return self.format + self.working + self.arithmetic

    def as_dict(self) -> dict[str, float]:
        """The parts and their total as a JSON object."""
        return asdict(self) | {"total": self.total}


def gain_parts(before: Evaluation, after: Evaluation, *, metric: Metric = "greedy") -> GainParts:
    """Return how many points of the gain come from format, from choosing to work and from better arithmetic.

    With f = readable, w = worked, a = (right_worked, right_quick) accuracy is A(f, w, a) = f · (w · a1 + (1 - w) · a0).
    A factor's part is its Shapley value: the change of A when this factor alone goes from before to after, averaged
    over the 3! orders in which the three can change. Each order telescopes to the gain, so the parts sum to it.
    A rate that does not exist on one side (no completion of that kind) is taken from the other side: nothing is
    credited to a change nobody saw.
    Source: Kitagawa 1955 (JASA 50, 1168-1194) for two factors; Das Gupta 1993 (US Census P23-186) for several;
    Shorrocks 2013 (J. Econ. Inequality 11, 99-126) for the Shapley form.
    Raises: UserError if the two evaluations are not on the same problems.
    """
    pairs = paired_records(before, after)
    mine, other = rates([b for b, _ in pairs], metric), rates([a for _, a in pairs], metric)
    old, new = _filled(mine, other), _filled(other, mine)
    first, last = (old[0], old[1], old[2:]), (new[0], new[1], new[2:])
    return GainParts(*(100 * part for part in shapley(_accuracy, first, last)))


def rates(records: Sequence[ProblemRecord], metric: Metric = "greedy") -> Rates:
    """Return the chain of rates behind the accuracy of some records; every problem has the same weight."""
    weighted = [(c, 1 / len(r.completions(metric))) for r in records for c in r.completions(metric)]
    readable = [(c, weight) for c, weight in weighted if c.readable]
    worked = [(c, weight) for c, weight in readable if c.worked]
    quick = [(c, weight) for c, weight in readable if not c.worked]
    mass = _mass(readable)
    return Rates(
        readable=mass / len(records) if records else 0.0,
        worked=_mass(worked) / mass if readable else None,
        right_worked=_share_right(worked),
        right_quick=_share_right(quick),
    )


def shapley(value: Callable[..., float], first: Sequence[object], last: Sequence[object]) -> list[float]:
    """Return each argument's share of value(*last) - value(*first): its marginal change averaged over all orders.

    Example:
        >>> shapley(lambda length, width: length * width, (2, 3), (4, 5))
        [8.0, 6.0]
    """
    parts = [0.0] * len(first)
    orders = list(permutations(range(len(first))))
    for order in orders:
        arguments = list(first)
        for i in order:
            start = value(*arguments)
            arguments[i] = last[i]
            parts[i] += (value(*arguments) - start) / len(orders)
    return parts


def _accuracy(readable: float, worked: float, right: tuple[float, float]) -> float:
    return readable * (worked * right[0] + (1 - worked) * right[1])


def _filled(mine: Rates, other: Rates) -> tuple[float, ...]:
    """Return the four rates, those that do not exist from the other side."""
    pairs = zip(astuple(mine), astuple(other), strict=True)
    return tuple(next((rate for rate in pair if rate is not None), 0.0) for pair in pairs)


def _mass(weighted: Sequence[tuple[GradedCompletion, float]]) -> float:
    return sum(weight for _, weight in weighted)


def _share_right(weighted: Sequence[tuple[GradedCompletion, float]]) -> float | None:
    return sum(weight for c, weight in weighted if c.correct) / _mass(weighted) if weighted else None
