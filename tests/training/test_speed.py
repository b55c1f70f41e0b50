"""A step's speed metrics, computed by hand from lengths, seconds and a made-up machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.hardware.flops import ModelShape
from mathgrpo.hardware.roofline import Roofline
from mathgrpo.models import Policy
from mathgrpo.runs.speedometer import Speedometer, StepTimes, build_speedometer, speed_metrics
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup

SHAPE = ModelShape(
    linear=100, trained_linear=100, head=50, trained_head=50, attention=8, linear_bytes=400, head_bytes=200, kv_bytes=16
)
METER = Speedometer("cpu", SHAPE, Roofline("by hand", ((1, 100.0),), 1000.0, 0.0), 500.0, "")
TIMES = StepTimes(rollout=20.0, reward=5.0, update=25.0)


def group(lengths: tuple[int, ...], advantages: tuple[float, ...]) -> RolloutGroup:
    return RolloutGroup(
        problem=Problem("What is 1 + 1?", "2"),
        prompt=Prompt((7, 8, 9), 1),
        completions=tuple(Completion((1,) * n, (-0.5,) * n, "eos") for n in lengths),
        texts=("",) * len(lengths),
        advantages=advantages,
    )


GROUPS = [group((2, 1), (1.0, -1.0))]


def test_speed_by_hand() -> None:
    metrics = speed_metrics(METER, GROUPS, GrpoSection(), TIMES)
    # Prefill: 3 tokens, 6 pairs, 1 logit: 600 + 192 + 100 FLOPs; 600 + 48 bytes. Decode: 1 step of 1 row, which sees 4:
    # 200 + 128 + 100; 600 + 64 bytes. At 1000 FLOP/s and 100 bytes/s memory decides both: 6.48 + 6.64 s of 20.
    # Update: 3 * (4 * 200 + 10 * 32 + 3 * 100).
    rollout, update = 892 + 428, 3 * 1420
    expected = {
        "time/rollout": 20.0,
        "time/reward": 5.0,
        "time/update": 25.0,
        "time/step": 50.0,
        "tokens_per_s": 3 / 50,
        "tokens_per_s/rollout": 3 / 20,
        "tokens_per_s/update": 4 / 25,
        "rows_per_decode_step": 1.5,
        "mfu/rollout": rollout / 20_000,
        "mfu/update": update / 25_000,
        "mfu/step": (rollout + update) / 50_000,
        "mfu/update_datasheet": update / 12_500,
        "roofline/rollout": 13.12 / 20,
        "roofline/rollout_memory": 1.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert set(metrics) - set(expected) <= {"memory/resident_gb", "memory/peak_gb"}


def test_what_the_update_skips_is_no_useful_work() -> None:
    both = [*GROUPS, group((9, 9), (0.0, 0.0))]
    skipping, all_of_it = (
        speed_metrics(METER, both, GrpoSection(), TIMES, skip_zero_advantage=skip) for skip in (True, False)
    )
    assert skipping["mfu/update"] == speed_metrics(METER, GROUPS, GrpoSection(), TIMES)["mfu/update"]
    assert all_of_it["tokens_per_s/update"] == pytest.approx((4 + 3 + 8 + 8) / 25)
    assert skipping["mfu/rollout"] == all_of_it["mfu/rollout"]


def test_repeated_updates_and_a_reference_are_work_too() -> None:
    once = speed_metrics(METER, GROUPS, GrpoSection(), TIMES)["mfu/update"]
    twice = speed_metrics(METER, GROUPS, GrpoSection(updates_per_rollout=2), TIMES)
    with_reference = speed_metrics(METER, GROUPS, GrpoSection(beta=0.1), TIMES)
    assert twice["mfu/update"] == pytest.approx(2 * once) and twice["tokens_per_s/update"] == pytest.approx(8 / 25)
    assert with_reference["mfu/update"] == pytest.approx(once * 4 / 3)  # one more forward pass


def test_without_a_roofline_or_a_shape_the_plain_numbers_remain() -> None:
    plain = {"time/rollout", "time/reward", "time/update", "time/step", "tokens_per_s", "tokens_per_s/rollout",
             "tokens_per_s/update", "rows_per_decode_step", "memory/resident_gb", "memory/peak_gb"}  # fmt: skip
    for meter in (Speedometer("cpu", SHAPE, None, None, ""), Speedometer("cpu", None, METER.roofline, None, "")):
        assert set(speed_metrics(meter, GROUPS, GrpoSection(), TIMES)) <= plain
    assert speed_metrics(METER, GROUPS, GrpoSection(), StepTimes(0.0, 0.0, 0.0))["mfu/update"] == 0.0


def policy(architecture: str = "qwen2", **overrides: Any) -> Policy:
    return Policy(tiny_model(architecture, **overrides), None, (1,), "cpu", torch.float32, 512, "tiny")


def test_a_speedometer_says_what_it_measured_or_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATHGRPO_CACHE", str(tmp_path))
    off = build_speedometer(policy(), roofline=False)
    assert not list(tmp_path.iterdir()) and off.roofline is None and off.info == {}
    assert "not measured" in off.line and off.shape is not None
    on = build_speedometer(policy())
    assert on.roofline is not None and on.info["machine"]["tflops"] > 0
    assert "GFLOP/s" in on.line and "float32" in on.line
    windowed = policy(sliding_window=16, use_sliding_window=True, max_window_layers=0)
    uncounted = build_speedometer(windowed)
    assert uncounted.shape is None and "whole context" in uncounted.line
