"""How fast a step was, and what share of the machine that is: metrics from lengths, seconds and a roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.hardware.datasheet import data_sheet
from mathgrpo.hardware.device_memory import memory_metrics
from mathgrpo.hardware.flops import (
    GroupLengths,
    ModelShape,
    decode_work,
    forward_flops,
    prefill_work,
    training_flops,
    update_size,
)
from mathgrpo.hardware.roofline import Roofline, ideal_seconds, machine_roofline
from mathgrpo.models import Policy
from mathgrpo.models.shape import model_shape, why_uncountable
from mathgrpo.types import RolloutGroup
from mathgrpo.update.pack import pieces_with_loss


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of a step's parts."""

    rollout: float
    reward: float
    update: float


@dataclass(frozen=True, slots=True)
class Speedometer:
    """What a step's speed is measured against.

    Attributes:
        shape: None for a model whose work cannot be counted.
        roofline: None when it was not to be measured.
        promised_flops_per_s: what the GPU's data sheet says for the compute precision; None where it is not known.
        line: all this in a line for a reader.
    """

    device: str
    shape: ModelShape | None
    roofline: Roofline | None
    promised_flops_per_s: float | None
    line: str

    @property
    def info(self) -> dict[str, Any]:
        """What run.json keeps of it: {} without a roofline."""
        if self.roofline is None:
            return {}
        measured = {
            "measured_on": self.roofline.machine,
            "tflops": round(self.roofline.flops_per_s / 1e12, 4),
            "gigabytes_per_s": {
                f"{size >> 20} MiB in use": round(speed / 1e9, 1) for size, speed in self.roofline.bandwidths
            },
        }
        return {"machine": measured}


def build_speedometer(policy: Policy, *, roofline: bool = True) -> Speedometer:
    """Return the speedometer of a run; measures the machine unless that is known or not wanted."""
    obstacle = why_uncountable(policy.model)
    shape = None if obstacle else model_shape(policy.model, policy.compute_dtype.itemsize)
    measured = machine_roofline(policy.device, policy.compute_dtype) if roofline else None
    promised = None
    if policy.device.startswith("cuda"):
        sheet = data_sheet(torch.cuda.get_device_name(policy.device))
        promised = sheet.flops_per_s.get(policy.compute_dtype) if sheet else None
    return Speedometer(policy.device, shape, measured, promised, _line(measured, obstacle))


def speed_metrics(
    meter: Speedometer, groups: Sequence[RolloutGroup], section: GrpoSection, times: StepTimes, *,
    skip_zero_advantage: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Return a step's speed.

    time/*: seconds of rollout, reward and update, and of the step. tokens_per_s: sampled tokens over the whole step;
    tokens_per_s/rollout: over the rollout; tokens_per_s/update: unique tokens that went through the update.
    mfu/rollout, mfu/update, mfu/step: useful FLOPs over seconds times the peak measured on this machine (the model
    FLOPs utilisation of Chowdhery et al. 2022, arXiv:2204.02311, appendix B, which takes the data sheet's peak);
    mfu/update_datasheet: against the data sheet. roofline/rollout: the least time the rollout could take here over the
    time it took; roofline/rollout_memory: the part of that least time which memory decides, the rest is arithmetic.
    rows_per_decode_step: completions decoded together, on average. memory/*: gigabytes.

    Useful: each prompt once in rollout and update, no padding, no recomputation, groups that teach nothing left out.
    """
    sampled = sum(len(completion.ids) for group in groups for completion in group.completions)
    rolled = [GroupLengths(len(g.prompt.ids), tuple(len(c.ids) for c in g.completions)) for g in groups]
    updated = _updated_lengths(groups, section, skip_zero_advantage)
    tokens, attended, head_tokens = update_size(updated)
    step_s = times.rollout + times.reward + times.update
    metrics = {
        "time/rollout": times.rollout,
        "time/reward": times.reward,
        "time/update": times.update,
        "time/step": step_s,
        "tokens_per_s": _rate(sampled, step_s),
        "tokens_per_s/rollout": _rate(sampled, times.rollout),
        "tokens_per_s/update": _rate(section.updates_per_rollout * tokens, times.update),
    }
    decode_steps = max((max(group.completions, default=0) for group in rolled), default=0)
    metrics |= {"rows_per_decode_step": sampled / decode_steps} if decode_steps else {}
    if meter.shape is not None:
        update = section.updates_per_rollout * training_flops(meter.shape, tokens, attended, head_tokens)
        if section.beta > 0.0:  # the reference's forward pass
            update += forward_flops(meter.shape, tokens, attended, head_tokens)
        metrics |= _shares(meter, meter.shape, rolled, update, times)
    return metrics | memory_metrics(meter.device)


def _shares(
    meter: Speedometer, shape: ModelShape, rolled: Sequence[GroupLengths], update: int, times: StepTimes
) -> dict[str, float]:
    """Return which shares of the peak and of the roofline a step reached."""
    metrics = {}
    if meter.roofline is not None:
        works = [prefill_work(shape, rolled), *decode_work(shape, rolled)]
        rollout = sum(work.flops for work in works)
        peak = meter.roofline.flops_per_s
        ideal, memory = ideal_seconds(meter.roofline, works)
        metrics = {
            "mfu/rollout": _rate(rollout, times.rollout * peak),
            "mfu/update": _rate(update, times.update * peak),
            "mfu/step": _rate(rollout + update, (times.rollout + times.reward + times.update) * peak),
            "roofline/rollout": _rate(ideal, times.rollout),
            "roofline/rollout_memory": _rate(memory, ideal),
        }
    if meter.promised_flops_per_s is not None:
        metrics["mfu/update_datasheet"] = _rate(update, times.update * meter.promised_flops_per_s)
    return metrics


def speed_line(rows: Sequence[Mapping[str, float]]) -> str:
    """Return what some steps say of speed in a line of at most 80 columns; "" when they say nothing.

    Example:
        >>> speed_line([{"time/step": 2.0, "time/rollout": 1.5, "time/reward": 0.1, "time/update": 0.4,
        ...              "roofline/rollout": 0.31, "mfu/update": 0.124, "memory/peak_gb": 0.71}])
        'time  rollout 75 % (roofline 31 %)  reward 5 %  update 20 % (MFU 12 %)  0.7 GB'
    """
    seconds = sum(row.get("time/step", 0.0) for row in rows)
    if not seconds:
        return ""
    beside = {"rollout": ("roofline/rollout", "roofline"), "update": ("mfu/update", "MFU")}
    parts = []
    for part in ("rollout", "reward", "update"):
        share = sum(row.get(f"time/{part}", 0.0) for row in rows) / seconds
        metric, word = beside.get(part, ("", ""))
        reached = [row[metric] for row in rows if metric in row]
        of_machine = f" ({word} {100 * sum(reached) / len(reached):.0f} %)" if reached else ""
        parts.append(f"{part} {100 * share:.0f} %{of_machine}")
    name = "memory/device_peak_gb" if "memory/device_peak_gb" in rows[-1] else "memory/peak_gb"
    parts += [f"{rows[-1][name]:.{0 if rows[-1][name] >= 10 else 1}f} GB"] if name in rows[-1] else []
    return "time  " + "  ".join(parts)


def _updated_lengths(groups: Sequence[RolloutGroup], section: GrpoSection, skip: bool) -> list[GroupLengths]:
    """Return the tokens that an update must compute: completions that have a loss, each with its group's prompt."""
    return [
        GroupLengths(
            len(groups[piece.group].prompt.ids),
            tuple(len(groups[piece.group].completions[g].ids) for g in piece.completions),
        )
        for piece in pieces_with_loss(groups, section, skip_zero_advantage=skip)
    ]


def _line(roofline: Roofline | None, obstacle: str) -> str:
    if roofline is None:
        return "machine     not measured: no MFU, no share of the roofline"
    cached = f", {roofline.bandwidths[0][1] / 1e9:,.0f} GB/s in cache"
    uncounted = f"; no MFU for this model: {obstacle}" if obstacle else ""
    return (
        f"machine     {roofline.flops_per_s / 1e9:,.0f} GFLOP/s, {roofline.memory_bandwidth / 1e9:,.0f} GB/s{cached}: "
        f"measured, {roofline.machine}{uncounted}"
    )


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0
