"""Metrics of a step, computed by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mathgrpo.answers import grade_completion
from mathgrpo.config.recipe import GrpoSection
from mathgrpo.formats import get_format
from mathgrpo.runs.record import batch_lines, rollout_lines
from mathgrpo.runs.speedometer import Speedometer, StepTimes, speed_metrics
from mathgrpo.training.recipe_task import rollout_metrics
from mathgrpo.types import Completion, Outcome, Problem, Prompt, RolloutGroup, Verdict

XML = get_format("xml")


def group(texts: tuple[str, ...], rewards: tuple[float, ...], verdicts: tuple[Outcome, ...]) -> RolloutGroup:
    ends = ("eos", "length")
    return RolloutGroup(
        problem=Problem("What is 1 + 1?", "2"),
        prompt=Prompt((7, 8), 1),
        completions=tuple(Completion((1,) * (g + 1), (-0.5,) * (g + 1), ends[g % 2]) for g in range(len(texts))),  # type: ignore[arg-type]
        texts=texts,
        rewards=rewards,
        reward_parts={"correct": rewards, "bonus": (None, 3.0)},
        grades=tuple(
            replace(grade_completion(text, "2", XML), verdict=Verdict(verdict, text, "number", "as told"))
            for text, verdict in zip(texts, verdicts, strict=True)
        ),
        advantages=(0.5, -0.5),
    )


GROUPS = [
    group((XML.write("1 + 1 = 2", "2"), "2"), (1.0, 0.0), ("correct", "no_answer")),
    group((XML.write("It is two.", "2"), "x"), (0.5, 0.5), ("correct", "timeout")),
]


def test_rollout_metrics_by_hand() -> None:
    metrics = rollout_metrics(GROUPS)
    assert metrics == {
        "reward": 0.5,
        "reward_std": pytest.approx(0.5**0.5 / 2),  # sample deviation of (1, 0) is sqrt(1/2), of (0.5, 0.5) 0
        "frac_reward_zero_std": 0.5,
        "reward/correct": 0.5,
        "reward/bonus": 3.0,  # the mean of those it applies to
        "accuracy": 0.5,
        "grader_errors": 1.0,
        "format_rate": 0.5,
        "worked_rate": 0.25,
        "completions/mean_length": 1.5,
        "completions/clipped_ratio": 0.5,
    }


def test_completions_to_which_no_reward_applies_count_in_no_mean() -> None:
    texts = (XML.write("1 + 1 = 2", "2"), "2")
    verdicts: tuple[Outcome, ...] = ("correct", "no_answer")
    half = rollout_metrics([group(texts, (1.0, math.nan), verdicts), GROUPS[0]])
    assert half["reward"] == pytest.approx(2 / 3) and half["frac_reward_zero_std"] == 0.5
    assert half["reward_std"] == pytest.approx(0.5**0.5 / 2)
    unscored = [group(texts, (math.nan, math.nan), verdicts)]
    none = rollout_metrics(unscored)
    assert none["frac_reward_zero_std"] == 1.0 and "reward" not in none and "reward_std" not in none
    [line] = rollout_lines(1, unscored)
    assert [row["reward"] for row in line["completions"]] == [None, None]
    json.dumps([{name: line["completions"][0][name] for name in ("reward", "advantage")}], allow_nan=False)


def test_time_metrics_by_hand() -> None:
    # 2 groups of 1 + 2 tokens in 1 + 0.5 + 1.5 s
    speed = speed_metrics(Speedometer("cpu", None, None, None, ""), GROUPS, GrpoSection(), StepTimes(1.0, 0.5, 1.5))
    expected = {
        "time/rollout": 1.0, "time/reward": 0.5, "time/update": 1.5, "time/step": 3.0, "tokens_per_s": 2.0,
    }  # fmt: skip
    assert {name: speed[name] for name in expected} == expected


def test_rollout_lines_hold_what_the_report_shows() -> None:
    [line, _] = rollout_lines(4, GROUPS)
    assert (line["step"], line["problem_id"], line["gold"], line["prompt_tokens"]) == (4, GROUPS[0].problem.id, "2", 2)
    assert line["completions"][1] == {
        "text": "2", "tokens": 2, "finish_reason": "length", "verdict": "no_answer", "read": "2", "rule": "number",
        "why": "as told", "reward": 0.0,
        "reward_parts": {"correct": 0.0, "bonus": 3.0}, "advantage": -0.5, "logprob_mean": -0.5,
    }  # fmt: skip
    [full, _] = batch_lines(4, GROUPS)
    assert full["prompt_ids"] == [7, 8] and full["completions"][1]["ids"] == [1, 1]
