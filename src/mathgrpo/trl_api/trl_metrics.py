"""A step's metrics under TRL's names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from mathgrpo.evaluation.compare import SIGNIFICANT_P, p_text
from mathgrpo.evaluation.reward_change import interval_text, reward_change
from mathgrpo.runs.task import Metrics
from mathgrpo.text import signed
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
        metrics[f"completions/mean{kind}_length"] = fmean(values)
        metrics[f"completions/min{kind}_length"] = float(min(values))
        metrics[f"completions/max{kind}_length"] = float(max(values))
    metrics["completions/clipped_ratio"] = 1.0 - len(ended) / len(lengths)
    for name in groups[0].reward_parts:
        known = [value for group in groups for value in group.reward_parts[name] if value is not None]
        metrics[f"rewards/{name}/mean"] = fmean(known) if known else None
        metrics[f"rewards/{name}/std"] = _deviation(known) if known else None
    totals = _known(value for group in groups for value in group.rewards)
    metrics["reward"] = fmean(totals) if totals else None
    metrics["reward_std"] = _deviation(totals) if totals else None
    metrics["frac_reward_zero_std"] = _zero_share(groups, totals, scale)
    metrics |= {name: fmean(values) for name, values in noted.items() if values}
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
    return {name: fmean(values) if values else None for name, values in columns.items()}


def _zero_share(groups: Sequence[RolloutGroup], totals: Sequence[float], scale: str) -> float:
    """Return the share of completions whose advantage's divisor is 0 (with scale "batch" all or none, as in TRL)."""
    if scale == "batch":
        return float(_deviation(totals) < 1e-8)
    return fmean(float(_deviation(_known(group.rewards)) < 1e-8) for group in groups)


def _mean(known: Sequence[float]) -> float:
    return fmean(known) if known else math.nan


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class RewardVerdict:
    """The paired difference of mean rewards between two evaluations, before and after some steps.

    Attributes:
        name: of the evaluation set.
        low, high: 95 % interval of the difference, of Student's t over the rows.
        p: two-sided p-value of the paired sign-flip test that there is none.
        function: the reward function it is about; "": the sum of all.
    """

    name: str
    before_step: int
    after_step: int
    before: float
    after: float
    low: float
    high: float
    p: float
    rows: int
    function: str = ""

    @property
    def line(self) -> str:
        """The verdict in one line."""
        of_function, gain = f" {self.function}" if self.function else "", signed(self.after - self.before, 3)
        text = (
            f"{self.name} reward{of_function} {self.before:.3f} → {self.after:.3f}, {gain}, "
            f"{interval_text(self.low, self.high)}, {p_text(self.p)}, {self.rows:,} rows, steps "
            f"{self.before_step} to {self.after_step}"
        )
        if self.p >= SIGNIFICANT_P:
            return f"{text}, no significant change"
        return f"{text}, worse" if self.after < self.before else text


@dataclass(frozen=True, slots=True)
class RewardsAt:
    """What an evaluation found: the mean reward of each row's completions, NaN where no reward applied.

    Attributes:
        parts: reward function -> the same of what it alone paid, unweighted.
    """

    step: int
    rewards: tuple[float, ...]
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def rewards_at(step: int, groups: Sequence[RolloutGroup]) -> RewardsAt:
    """Return what an evaluation found; each function by itself where there are several."""
    names = list(groups[0].reward_parts) if groups else []
    parts = {
        name: tuple(_mean([value for value in group.reward_parts[name] if value is not None]) for group in groups)
        for name in (names if len(names) > 1 else ())
    }
    return RewardsAt(step, tuple(_mean(_known(group.rewards)) for group in groups), parts)


def reward_verdicts(name: str, before: RewardsAt, after: RewardsAt) -> list[RewardVerdict]:
    """Return the comparison of two evaluations' rewards, in all and function by function."""
    sides = {"": (before.rewards, after.rewards)}
    sides |= {part: (before.parts[part], values) for part, values in after.parts.items() if part in before.parts}
    compared = (
        reward_verdict(name, replace(before, rewards=old), replace(after, rewards=new), function)
        for function, (old, new) in sides.items()
    )
    return [verdict for verdict in compared if verdict is not None]


def reward_verdict(name: str, before: RewardsAt, after: RewardsAt, function: str = "") -> RewardVerdict | None:
    """Return the comparison of two evaluations; None for one evaluation, other rows, or none with a reward in both.

    Example:
        >>> verdict = reward_verdict("eval", RewardsAt(0, (0.0,) * 8), RewardsAt(5, (1.0,) * 8))
        >>> verdict.p < 0.05, verdict.after - verdict.before
        (True, 1.0)
    """
    pairs = [(b, a) for b, a in zip(before.rewards, after.rewards, strict=False) if b == b and a == a]
    if after.step <= before.step or len(before.rewards) != len(after.rewards):
        return None
    change = reward_change(name, pairs)
    if change is None:
        return None
    found = change.before, change.after, change.low, change.high, change.p, change.problems
    return RewardVerdict(name, before.step, after.step, *found, function)
