"""Which curves a report draws, in which order, and what a reader needs to know about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart to draw: metric name -> label; a name ending in "/*" stands for every metric below it."""

    title: str
    metrics: Mapping[str, str]
    note: str = ""
    percent: bool = False
    log: bool = False
    stacked: bool = False
    band: str = ""
    exact: bool = False


SECTIONS: tuple[tuple[str, tuple[Curve, ...]], ...] = (
    (
        "Learning",
        (
            Curve(
                "Reward",
                {"reward": "mean"},
                "Mean over the completions of a step; band: ± reward_std.",
                band="reward_std",
            ),
            Curve("Parts of the reward", {"reward/*": ""}, "Mean of each reward function."),
            Curve(
                "Training completions",
                {"accuracy": "correct", "format_rate": "in the format", "worked_rate": "worked out"},
                "Sampled while training, on training problems.",
                percent=True,
            ),
            Curve(
                "Groups without spread",
                {"frac_reward_zero_std": "share of groups"},
                "Every completion has the same reward: nothing to learn.",
                percent=True,
            ),
            Curve("Grader errors", {"grader_errors": "completions"}, "Grades that failed or timed out."),
        ),
    ),
    (
        "Completions",
        (
            Curve("Length", {"completions/mean_length": "mean tokens"}, "Sampled tokens, the end token included."),
            Curve(
                "Cut off",
                {"completions/clipped_ratio": "share of completions"},
                "No end token within max_new_tokens.",
                percent=True,
            ),
            Curve("Entropy", {"entropy": "nats per token"}, "Near zero: the model no longer tries anything new."),
        ),
    ),
    (
        "Optimisation",
        (
            Curve("Gradient norm", {"grad_norm": "L2 norm"}, "Before clipping."),
            Curve("Loss", {"loss": "loss"}, "Says little in GRPO: its gradient is what counts."),
            Curve("KL to the reference", {"kl": "nats per token"}),
            Curve(
                "Clipped tokens",
                {"clip_ratio/low": "below", "clip_ratio/high": "above"},
                "Tokens whose ratio left the clip range.",
                percent=True,
            ),
            Curve(
                "Engine against trainer",
                {"sampling/logprob_difference/mean": "mean", "sampling/logprob_difference/max": "largest"},
                "|log-probability difference| between rollout and update; logarithmic.",
                log=True,
            ),
            Curve("Learning rate", {"learning_rate": "rate"}, exact=True),
            Curve(
                "Weights moved",
                {"weights_moved": "share of weights"},
                "Changed by the step at all, in their own precision.",
                percent=True,
            ),
        ),
    ),
    (
        "Speed",
        (
            Curve(
                "Throughput",
                {
                    "tokens_per_s": "whole step",
                    "tokens_per_s/rollout": "rollout, sampled",
                    "tokens_per_s/update": "update, each prompt once",
                },
                "Tokens per second.",
            ),
            Curve(
                "Time of a step",
                {"time/rollout": "rollout", "time/reward": "reward", "time/update": "update", "time/other": "other"},
                "Seconds, stacked.",
                stacked=True,
            ),
            Curve(
                "Share of the machine",
                {
                    "roofline/rollout": "rollout, of its roofline",
                    "mfu/rollout": "rollout, MFU",
                    "mfu/update": "update, MFU",
                    "mfu/update_datasheet": "update, MFU by the data sheet",
                },
                "Roofline: least time that memory and arithmetic allow over the time taken. MFU: useful FLOPs over "
                "those of a large matrix product, measured on this machine.",
                percent=True,
            ),
            Curve(
                "Memory",
                {
                    "memory/resident_gb": "process",
                    "memory/peak_gb": "process, peak so far",
                    "memory/device_gb": "device",
                    "memory/device_peak_gb": "device, peak so far",
                },
                "Gigabytes, after the step.",
            ),
            Curve(
                "Rows decoded together",
                {"rows_per_decode_step": "completions"},
                "On average over a rollout: completions that end early leave the others alone.",
            ),
        ),
    ),
)
NOT_ALONE = {"reward_std", "time/step", "time/other", "mfu/step", "roofline/rollout_memory"}
"""Metrics shown as part of another chart."""
