"""A run's curves as one picture for a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mathgrpo.report.charts import thinned
from mathgrpo.report.curves import accuracy_by_step
from mathgrpo.report.read_run import RunData

PANELS = (
    ("reward, mean of a step", "reward"),
    ("completion length, tokens", "completions/mean_length"),
    ("gradient norm", "grad_norm"),
)


def draw_curves(run: RunData, path: Path) -> bool:
    """Write a PNG of held-out accuracy (with 95 % Wilson intervals), reward, length and gradient norm over the steps.

    Returns whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    accuracy = accuracy_by_step(run)
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
        steps, values, lows, highs = ([row[i] for row in accuracy] for i in range(4))
        bars = [[100 * (v - low), 100 * (high - v)] for v, low, high in zip(values, lows, highs, strict=True)]
        axes[0].errorbar(steps, [100 * v for v in values], yerr=[*zip(*bars, strict=True)], marker="o", capsize=3)
    axes[0].set_title("held-out accuracy, %, with 95 % interval", fontsize=9)
    for axis, (title, (steps_, values_)) in zip(axes[1:], panels, strict=False):
        axis.plot(*thinned(steps_, values_))
        axis.set_title(title, fontsize=9)
    for axis in axes[1 + len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("step", fontsize=9)
    figure.savefig(path, metadata={"Software": None})  # the same bytes for the same run
    return True
