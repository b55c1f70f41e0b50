"""Medians, quartiles, ratios, costs, tables and files of the benchmark, on numbers worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench_cases import experiment, row, sample
from benchmarks.accuracy import AccuracyResults, Course, Mark, accuracy_table, demo_settings, reached
from benchmarks.experiments import cpu, cpu_axes, gpu, gpu_axes
from benchmarks.machine import cpu_field, machine_facts
from benchmarks.memory import reset_peak, resident_bytes, status_bytes
from benchmarks.models import SHAPES, model_config
from benchmarks.repeats import Spread, paired_ratio, spread
from benchmarks.results import Axis, Point, Results, read_results, write_results
from benchmarks.scaling import cost_us, costs, rises
from benchmarks.settings import OURS, TRL_GENERATE
from benchmarks.spread_reward import spread as spread_reward
from benchmarks.table import axis_table, experiment_table, markdown, nearest_trl, step_ratio_line
from mathgrpo.config import load_recipe
from mathgrpo.errors import UserError


def results() -> Results:
    return Results(
        kind="bench", date="2026-11-21T10:00:00+00:00", command="python -m benchmarks", seconds=660.0,
        machine={"cpu": "Fast CPU", "cores": 2, "memory_gb": 24.0, "flags": ["avx2"], "system": "Linux 6"},
        versions={"torch": "2.13.0", "revision": "abc+"}, experiments=(experiment(),), scaling=(axis(),),
        notes=("vLLM was not there to be measured.",),
    )  # fmt: skip


def axis(*, per_parameter: bool = False) -> Axis:
    """Costs of 1 s and 3 s for 120 unique tokens, at 1 and 2 million parameters."""
    points = []
    for value, seconds, parameters in (("4", 1.0, 1_000_000), ("16", 3.0, 2_000_000)):
        done = experiment(with_trl=False).model_copy(update={"rows": (row(OURS, [seconds]),)})
        points.append(Point(value=value, parameters=parameters, experiment=done))
    return Axis(name="group_size", title="Group", per_parameter=per_parameter, points=tuple(points))


def test_quartiles_are_those_of_the_inclusive_method() -> None:
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_ratios_pair_steps_on_the_same_prompts() -> None:
    # Unpaired medians would give 3 / 2; the pairs are 4, 1 and 3.
    ratio = paired_ratio({1: 4.0, 2: 2.0, 3: 3.0, 9: 100.0}, {1: 1.0, 2: 2.0, 3: 1.0, 8: 1.0})
    assert ratio is not None and ratio.median == 3.0
    assert paired_ratio({1: 1.0}, {2: 1.0}) is None


def test_the_ratio_line_is_against_the_nearest_of_all_trl_rows() -> None:
    nearest = nearest_trl(experiment())
    assert nearest is not None and nearest.contestant.name == "trl-allocator"
    line = step_ratio_line(experiment())
    assert line.startswith("step ratio 1.50: a step of TRL, `generate`, allocator as ours takes 1.50 times")
    assert "quartiles 1.50 to 1.50, 3 steps; rollout 1.50, update 1.50" in line
    assert "not measured" in step_ratio_line(experiment(with_trl=False))


def test_update_is_all_of_a_step_that_is_neither_rollout_nor_reward() -> None:
    assert sample(0, 3.0, rollout=1.0).model_copy(update={"reward_s": 0.5}).update_s == 1.5


def test_cost_is_per_unique_token_and_a_rise_is_flagged() -> None:
    assert cost_us([sample(0, 1.2), sample(1, 2.4), sample(2, 12.0)]) == pytest.approx(20_000)
    assert costs(axis()) == pytest.approx([1e6 / 120, 3e6 / 120])
    assert costs(axis(per_parameter=True)) == pytest.approx([1e6 / 120, 3e6 / 240])
    assert rises([10.0, None, 11.5]) and not rises([10.0, 10.9, 5.0]) and not rises([None])
    assert "**rises**" in axis_table(axis())


def test_the_table_has_a_row_for_each_contestant_and_says_what_a_row_needs() -> None:
    table = experiment_table(experiment())
    cells = [line.split(" | ") for line in table.splitlines() if line.startswith("| mathgrpo")]
    assert cells == [["| mathgrpo", "1 (1–1)", "1.00", "0.5 (0.5–0.5)", "200", "0.5 (0.5–0.5)", "200", "500", "100 |"]]
    assert "| TRL, `generate` | 3 (2.5–3.5) | 3.00 |" in table
    assert "3 steps after 2 warm-up steps that are not counted" in table
    assert "2.0e-06 of TRL's gradient" in table and "Zero-advantage groups are computed" in table


def test_below_float32_the_gradients_are_held_against_the_float32_one() -> None:
    done = experiment()
    assert done.gradient is not None
    rounded = done.gradient.model_copy(update={"rounding": 0.05, "trl_rounding": 0.061})
    table = experiment_table(done.model_copy(update={"gradient": rounded}))
    assert "ours is 5.0e-02 from the float32 gradient" in table and "TRL's 6.1e-02" in table


def test_a_contestant_that_was_not_idle_between_turns_is_told() -> None:
    table = experiment_table(experiment())
    busy = experiment().rows[0].model_copy(update={"idle_cpu_s": 3.0})  # of 55.5 s in all
    assert "not idle" not in table
    assert "not idle between their turns**: 3.0 s" in experiment_table(
        experiment().model_copy(update={"rows": (busy, *experiment().rows[1:])})
    )


def test_a_failed_contestant_is_shown_with_its_failure() -> None:
    failed = row(TRL_GENERATE, []).model_copy(update={"failure": "trl-generate: ended"})
    table = experiment_table(experiment().model_copy(update={"rows": (row(OURS, [1.0]), failed)}))
    assert "| TRL, `generate` | not measured |" in table and "left the round: trl-generate: ended" in table


def test_results_come_back_from_their_file_as_they_went_in(tmp_path: Path) -> None:
    write_results(results(), tmp_path / "deep" / "bench.json")
    assert read_results(tmp_path / "deep" / "bench.json") == results()
    text = markdown(results())
    assert "Fast CPU, 2 cores (avx2)" in text and "revision abc+" in text and "in 11 minutes" in text


def test_a_wrong_results_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    with pytest.raises(UserError, match="make bench"):
        read_results(path)
    data = results().model_dump(mode="json")
    data["experiments"][0]["rows"][0]["samples"][0]["secondz"] = 1.0
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"rows\.0\.samples\.0\.secondz") as error:
        read_results(path)
    assert "\n" not in str(error.value)


def test_accuracy_time_is_that_of_the_first_mark_at_the_threshold() -> None:
    marks = (
        Mark(steps=0, seconds=0.0, accuracy=0.4),
        Mark(steps=10, seconds=7.0, accuracy=0.8),
        Mark(steps=20, seconds=14.0, accuracy=0.9),
    )
    course, slow = Course(contestant=OURS, seed=0, marks=marks), Course(contestant=OURS, seed=1, marks=marks[:1])
    assert reached(course, 0.8) == marks[1] and reached(slow, 0.8) is None
    table = accuracy_table(
        AccuracyResults(
            date="d", command="c", threshold=0.8, settings=demo_settings(0, 100), machine={}, versions={},
            courses=(course, slow),
        )
    )  # fmt: skip
    assert "| mathgrpo | 0 | 40.0 % | 7 | 10 | 80.0 % |" in table and "not reached" in table


def test_the_accuracy_benchmark_trains_as_the_demo_does() -> None:
    demo, settings = load_recipe("demo"), demo_settings(0, 100)
    assert (demo.rollout.prompts_per_step, demo.rollout.group_size) == (settings.prompts_per_step, settings.group_size)
    assert demo.rollout.max_new_tokens == settings.max_new_tokens
    assert demo.optimizer.learning_rate == settings.learning_rate
    assert demo.optimizer.schedule == settings.schedule
    assert demo.optimizer.warmup_ratio * 100 == settings.warmup_steps
    assert demo.optimizer.max_grad_norm == settings.max_grad_norm
    assert demo.grpo.advantage_scale == settings.advantage_scale
    assert (demo.problems.train_size, demo.problems.heldout_size) == (4000, 500)


def test_machine_facts_name_processor_cores_and_memory() -> None:
    facts = machine_facts("cpu")
    assert facts["cpu"] and facts["cores"] >= 1 and facts["memory_gb"] > 0
    assert cpu_field("flags", "flags\t\t: fpu avx2\nflags : other\n") == "fpu avx2"
    assert cpu_field("bogus", "flags : fpu\n") == ""


PEAKS = """
from benchmarks.memory import peak_bytes, reset_peak
block = bytearray(200_000_000)
block[::4096] = b"x" * len(block[::4096])
high = peak_bytes("cpu")
del block
print(int(reset_peak("cpu")), high, peak_bytes("cpu"))
"""


def test_a_new_peak_forgets_what_was_given_back() -> None:
    """In a process of its own: here a run may have told the C library to keep what it frees."""
    assert status_bytes("VmHWM", "VmHWM:\t  100 kB\n") == 102_400
    if not reset_peak("cpu") or not resident_bytes():
        pytest.skip("this system does not say what a process holds")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=root, capture_output=True, text=True, check=True)
    allowed, high, after = map(int, done.stdout.split())
    assert allowed and high >= 200_000_000 and after < high - 100_000_000


def test_shapes_have_the_size_their_name_says() -> None:
    import torch
    from transformers import Qwen2ForCausalLM

    sizes = {"1m": 1.0, "starter-shape": 2.4, "10m": 10, "30m": 30, "100m": 100, "qwen2.5-0.5b": 494}
    for name, millions in sizes.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in Qwen2ForCausalLM(model_config(name)).parameters())
        assert count / 1e6 == pytest.approx(millions, rel=0.15), name
    with pytest.raises(UserError, match="there are: starter, tiny"):
        model_config("11m")
    assert all(shape["hidden_size"] % shape["num_attention_heads"] == 0 for shape in SHAPES.values())


def test_every_plan_can_run() -> None:
    for plan in [*cpu(vllm=True), *gpu()]:
        assert len({contestant.name for contestant in plan.contestants}) == len(plan.contestants), plan.name
        assert plan.contestants[0] == OURS
        assert plan.settings.num_steps >= plan.warmup + plan.max_steps
    assert sum(plan.share for plan in cpu(vllm=True)) < 1 and sum(plan.share for plan in gpu()) < 1
    for axis_plan in [*cpu_axes(), *gpu_axes()]:
        assert all(getattr(axis_plan.plan(value).settings, axis_plan.name) == value for value in axis_plan.values)
        assert set(axis_plan.with_trl) <= set(axis_plan.values)


def test_the_spread_reward_differs_and_is_the_same_for_both_forms_of_completions() -> None:
    texts = ["a", "b", "a"]
    rewards = spread_reward([None] * 3, texts)
    assert rewards[0] == rewards[2] != rewards[1] and all(0 <= value < 1 for value in rewards)
    assert spread_reward([None] * 3, [[{"role": "assistant", "content": text}] for text in texts]) == rewards
