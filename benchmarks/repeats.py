"""Medians, quartiles and ratios of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The middle half of repeated measurements."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return lower quartile, median and upper quartile (inclusive method: of 1, 2, 3, 4, 5 they are 2, 3, 4).

    Raises: ValueError when there are no values.
    """
    if not values:
        raise ValueError("no values to summarise")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def paired_ratio(theirs: Mapping[int, float], ours: Mapping[int, float]) -> Spread | None:
    """Return the spread of theirs / ours over the steps that both took; None when there is none.

    Both took such a step on the same prompts within seconds, so what else the machine did cancels.

    Example:
        >>> paired_ratio({1: 4.0, 2: 6.0}, {1: 2.0, 2: 2.0}).median
        2.5
    """
    shared = sorted(theirs.keys() & ours.keys())
    ratios = [theirs[step] / ours[step] for step in shared if ours[step] > 0]
    return spread(ratios) if ratios else None
