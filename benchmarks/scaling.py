"""Scaling rows: what a unique token costs along one setting, and whether that rises."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.repeats import spread
from benchmarks.results import Axis, Experiment, Sample

TOLERANCE = 1.10
"""A cost above the first one by more than this factor counts as risen; repeats here differ by a few per cent."""


def cost_us(samples: Sequence[Sample]) -> float:
    """Return the median microseconds of a whole step per unique token (prompts once a group, and completions).

    Raises: ValueError without samples.
    """
    return 1e6 * spread([sample.seconds / sample.unique_tokens for sample in samples]).median


def costs(axis: Axis, kind: str = "ours") -> list[float | None]:
    """Return each point's cost, None where there is no measurement; along the model axis per million parameters."""
    found = []
    for point in axis.points:
        samples = samples_of(point.experiment, kind)
        scale = 1e6 / point.parameters if axis.per_parameter else 1.0
        found.append(cost_us(samples) * scale if samples else None)
    return found


def samples_of(experiment: Experiment, kind: str) -> tuple[Sample, ...]:
    """Return the samples of the first row of a kind, () when there is none."""
    return next((row.samples for row in experiment.rows if row.contestant.kind == kind), ())


def rises(values: Sequence[float | None]) -> bool:
    """Return whether the cost ends, or anywhere lies, above the first one by more than the tolerance.

    Example:
        >>> rises([10.0, 8.0, 9.0]), rises([10.0, 12.0, 9.0])
        (False, True)
    """
    known = [value for value in values if value is not None]
    return bool(known) and max(known) > TOLERANCE * known[0]
