"""What the completions of a step say: rewards, accuracy, form and length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from mathgrpo.types import Graded, RolloutGroup


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return what a step's completions say: rewards, accuracy, form, length.

    reward_std is the mean over groups of the sample deviation in the group; reward/<name> is the mean of the
    completions the reward applies to; format_rate is strict. A completion to which no reward applies counts in no mean
    of rewards, and a step without any reward has none.
    """
    completions = [completion for group in groups for completion in group.completions]
    return {
        **_reward_spread([[reward for reward in group.rewards if not math.isnan(reward)] for group in groups]),
        **_reward_means(groups),
        **_grade_rates([graded for group in groups for graded in group.grades]),
        "completions/mean_length": fmean(len(completion.ids) for completion in completions),
        "completions/clipped_ratio": fmean(completion.finish_reason == "length" for completion in completions),
    }


def _reward_spread(known: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return mean and spread of the groups' known rewards."""
    everything = [reward for rewards in known for reward in rewards]
    spread = {"frac_reward_zero_std": fmean(len(set(rewards)) <= 1 for rewards in known)}
    if not everything:
        return spread
    deviations = [stdev(rewards) if len(rewards) > 1 else 0.0 for rewards in known]
    return {"reward": fmean(everything), "reward_std": fmean(deviations), **spread}


def _reward_means(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    names = dict.fromkeys(name for group in groups for name in group.reward_parts)
    means: dict[str, float] = {}
    for name in names:
        values = [value for group in groups for value in group.reward_parts.get(name, ()) if value is not None]
        means |= {f"reward/{name}": fmean(values)} if values else {}
    return means


def _grade_rates(grades: Sequence[Graded]) -> dict[str, float]:
    """Return the shares of the graded completions; nothing where none is graded."""
    if not grades:
        return {}
    return {
        "accuracy": fmean(graded.verdict == "correct" for graded in grades),
        "grader_errors": float(sum(graded.verdict in ("timeout", "error") for graded in grades)),
        "format_rate": fmean(graded.format_strict for graded in grades),
        "worked_rate": fmean(graded.worked for graded in grades),
    }
