"""A run's curves as one picture for a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mathgrpo.evaluation.metrics import wilson_interval
from mathgrpo.report.load import RunData

PANELS = (
    ("reward, mean of a step", "reward"),
    ("completion length, tokens", "completions/mean_length"),
    ("gradient norm", "grad_norm"),
)
MOST_POINTS = 300
"""Points of a curve; a longer one is averaged over neighbours."""


def draw_curves(run: RunData, path: Path) -> bool:
    """Write a PNG of held-out accuracy (with 95 % Wilson intervals), reward, length and gradient norm over the steps.

    Returns whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    accuracy = held_out_accuracy(run)
    panels = [(title, run.metrics[name]) for title, name in PANELS if name in run.metrics]
    if not accuracy and not panels:
        return False
    figure = Figure(figsize=(9, 5.4), dpi=110, layout="constrained")
    axes: Any = figure.subplots(2, 2).flatten()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
        axis.tick_params(labelsize=8)
    if accuracy:
        steps, values = [a[0] for a in accuracy], [100 * a[1] for a in accuracy]
        below = [v - 100 * a[2] for v, a in zip(values, accuracy, strict=True)]
        above = [100 * a[3] - v for v, a in zip(values, accuracy, strict=True)]
        axes[0].errorbar(steps, values, yerr=(below, above), marker="o", capsize=3)
    axes[0].set_title("held-out accuracy, %, with 95 % interval", fontsize=9)
    for axis, (title, (steps_, values_)) in zip(axes[1:], panels, strict=False):
        axis.plot(*thinned(steps_, values_))
        axis.set_title(title, fontsize=9)
    for axis in axes[1 + len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("step", fontsize=9)
    figure.savefig(path, metadata={"Software": None})  # the same bytes for the same run
    return True


def held_out_accuracy(run: RunData) -> list[tuple[int, float, float, float]]:
    """Return (step, accuracy, low, high) of every evaluation on the held-out problems, by step."""
    found = []
    for name, evaluation in run.evaluations.items():
        step = {"before": 0, "after": run.last_step}.get(name, int(name[5:]) if name[5:].isdigit() else None)
        if step is not None:
            correct = sum(record.greedy.correct for record in evaluation.records)
            low, high = wilson_interval(correct, len(evaluation.records))
            found.append((step, correct / len(evaluation.records), low, high))
    return sorted(found)


def thinned(steps: tuple[int, ...], values: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """Return a curve of at most MOST_POINTS points, each the mean of its neighbours.

    Example:
        >>> thinned((1, 2, 3), (1.0, 3.0, 5.0))
        ([1.0, 2.0, 3.0], [1.0, 3.0, 5.0])
    """
    size = -(-len(steps) // MOST_POINTS)
    starts = range(0, len(steps), size)
    mean = [sum(values[i : i + size]) / len(values[i : i + size]) for i in starts]
    return [sum(steps[i : i + size]) / len(steps[i : i + size]) for i in starts], mean
