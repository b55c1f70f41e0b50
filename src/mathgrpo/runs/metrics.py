"""The lines of metrics.jsonl and rollouts.jsonl: pure functions of a step's groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from mathgrpo.types import Completion, Graded, RolloutGroup


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


def time_metrics(
    groups: Sequence[RolloutGroup], rollout_s: float, reward_s: float, update_s: float
) -> dict[str, float]:
    """Return where the step's time went, in seconds, and sampled tokens per second of the whole step."""
    step_s = rollout_s + reward_s + update_s
    tokens = sum(len(completion.ids) for group in groups for completion in group.completions)
    return {
        "time/rollout": rollout_s, "time/reward": reward_s, "time/update": update_s, "time/step": step_s,
        "tokens_per_s": tokens / step_s if step_s > 0 else 0.0,
    }  # fmt: skip


def rollout_lines(step: int, groups: Iterable[RolloutGroup]) -> list[dict[str, Any]]:
    """Return one line of rollouts.jsonl for each group."""
    return [_group_line(step, group) for group in groups]


def batch_lines(step: int, groups: Iterable[RolloutGroup]) -> list[dict[str, Any]]:
    """Return lines that hold a step's batch down to token ids and sampling log-probabilities, to find a fault with."""
    lines = []
    for group in groups:
        line = _group_line(step, group) | {"prompt_ids": list(group.prompt.ids)}
        for row, completion in zip(line["completions"], group.completions, strict=True):
            row |= {"ids": list(completion.ids), "sampling_logprobs": list(completion.logprobs)}
        lines.append(line)
    return lines


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


def _group_line(step: int, group: RolloutGroup) -> dict[str, Any]:
    return {
        "step": step,
        "problem_id": group.problem.id,
        "question": group.problem.question,
        "gold": group.problem.answer,
        "prompt_tokens": len(group.prompt.ids),
        "completions": [_completion_line(group, g, completion) for g, completion in enumerate(group.completions)],
    }


def _completion_line(group: RolloutGroup, g: int, completion: Completion) -> dict[str, Any]:
    return {
        "text": group.texts[g],
        "tokens": len(completion.ids),
        "finish_reason": completion.finish_reason,
        "verdict": group.grades[g].verdict if group.grades else None,
        "reward": None if math.isnan(group.rewards[g]) else group.rewards[g],
        "reward_parts": {name: values[g] for name, values in group.reward_parts.items()},
        "advantage": group.advantages[g],
        "logprob_mean": math.fsum(completion.logprobs) / len(completion.logprobs) if completion.logprobs else None,
    }
