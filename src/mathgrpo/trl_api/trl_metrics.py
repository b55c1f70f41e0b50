"""A step's metrics under TRL's names."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from mathgrpo.runs.hook import Metrics
from mathgrpo.types import RolloutGroup

_RENAMED = {
    "clip_ratio/low": "clip_ratio/low_mean",
    "clip_ratio/high": "clip_ratio/high_mean",
    "sampling/logprob_difference/mean": "sampling/sampling_logp_difference/mean",
    "sampling/logprob_difference/max": "sampling/sampling_logp_difference/max",
    "importance/min": "sampling/importance_sampling_ratio/min",
    "importance/mean": "sampling/importance_sampling_ratio/mean",
    "importance/max": "sampling/importance_sampling_ratio/max",
}


def lengths_and_rewards(groups: Sequence[RolloutGroup], noted: Mapping[str, Sequence[float]], scale: str) -> Metrics:
    """Return lengths and rewards of one rollout, and what reward functions noted.

    A reward that applies to no completion has mean None. Deviations are sample deviations (n - 1).
    """
    lengths = [len(completion.ids) for group in groups for completion in group.completions]
    ended = [len(c.ids) for group in groups for c in group.completions if c.finish_reason == "eos"]
    metrics: Metrics = {}
    for kind, values in (("", lengths), ("_terminated", ended or [0])):
        metrics[f"completions/mean{kind}_length"] = statistics.fmean(values)
        metrics[f"completions/min{kind}_length"] = float(min(values))
        metrics[f"completions/max{kind}_length"] = float(max(values))
    metrics["completions/clipped_ratio"] = 1.0 - len(ended) / len(lengths)
    for name in groups[0].reward_parts:
        known = [value for group in groups for value in group.reward_parts[name] if value is not None]
        metrics[f"rewards/{name}/mean"] = statistics.fmean(known) if known else None
        metrics[f"rewards/{name}/std"] = _deviation(known) if known else None
    totals = _known(value for group in groups for value in group.rewards)
    metrics["reward"] = statistics.fmean(totals) if totals else None
    metrics["reward_std"] = _deviation(totals) if totals else None
    metrics["frac_reward_zero_std"] = _zero_share(groups, totals, scale)
    metrics |= {name: statistics.fmean(values) for name, values in noted.items() if values}
    return metrics


def trl_names(metrics: Metrics) -> Metrics:
    """Return the loop's metrics of a step as TRL calls them; transformers logs the step itself."""
    renamed = {_RENAMED.get(name, name): value for name, value in metrics.items() if name != "step"}
    if "clip_ratio/low" in metrics:
        renamed["clip_ratio/region_mean"] = (metrics["clip_ratio/low"] or 0.0) + (metrics["clip_ratio/high"] or 0.0)
    return renamed


def mean_metrics(history: Sequence[Metrics]) -> Metrics:
    """Return the mean of each metric over the rollouts that have it; None where none has a value."""
    names = dict.fromkeys(name for metrics in history for name in metrics)
    columns = {name: [v for m in history if (v := m.get(name)) is not None] for name in names}
    return {name: statistics.fmean(values) if values else None for name, values in columns.items()}


def _zero_share(groups: Sequence[RolloutGroup], totals: Sequence[float], scale: str) -> float:
    """Return the share of completions whose advantage's divisor is 0 (with scale "batch" all or none, as in TRL)."""
    if scale == "batch":
        return float(_deviation(totals) < 1e-8)
    return statistics.fmean(float(_deviation(_known(group.rewards)) < 1e-8) for group in groups)


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
