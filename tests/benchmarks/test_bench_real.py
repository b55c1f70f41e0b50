"""The real contestants, at sizes of seconds: same prompts, same gradient, forced lengths, whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import train_in_turns
from benchmarks.experiments import PROVING, Plan, gpu, tiny
from benchmarks.orchestrate import Pace, run_experiment
from benchmarks.results import read_results
from benchmarks.run import main
from benchmarks.settings import OURS, TRL_GENERATE, Settings
from benchmarks.task import prepare_task
from mathgrpo.config import load_recipe
from mathgrpo.config.machinery import machinery_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL: dict[str, Any] = {"prompts_per_step": 4, "group_size": 6, "max_new_tokens": 40, "threads": 1}


@pytest.mark.parametrize("mode", ["natural", "forced"])
def test_both_sides_take_the_same_steps(tmp_path: Path, mode: Any) -> None:
    pytest.importorskip("trl")
    settings = Settings(mode=mode, **SMALL)
    prepare_task(settings, tmp_path / "task")
    said: list[str] = []
    done = run_experiment("x", "", settings, [OURS, PROVING], tmp_path / "task", Pace(1, 2, 2), said.append)
    ours, trl = done.rows
    assert not ours.failure and not trl.failure
    assert done.gradient is not None and done.gradient.relative < 1e-4
    assert done.gradient.loss == pytest.approx(done.gradient.trl_loss, abs=1e-5)
    assert [s.prompt_tokens for s in ours.samples] == [s.prompt_tokens for s in trl.samples]
    for sample in (*ours.samples, *trl.samples):
        assert 0 < sample.rollout_s + sample.reward_s < sample.seconds and sample.longest <= 40
        assert mode == "natural" or sample.tokens == settings.completions * 40


def test_in_bfloat16_we_are_as_near_to_the_float32_gradient_as_trl(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    settings = Settings(dtype="bfloat16", **SMALL)
    prepare_task(settings, tmp_path / "task")
    done = run_experiment("x", "", settings, [OURS, PROVING], tmp_path / "task", Pace(1, 1, 1), lambda line: None)
    gradient = done.gradient
    assert gradient is not None and gradient.rounding is not None and gradient.trl_rounding is not None
    assert 1e-4 < gradient.rounding < 1.5 * gradient.trl_rounding < 0.75


def test_both_sides_start_from_the_same_accuracy_and_learn(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    settings = Settings(max_new_tokens=48, learning_rate=1e-4, heldout_problems=40, num_steps=2, threads=1)
    prepare_task(settings, tmp_path / "task")
    courses = train_in_turns(settings, (OURS, TRL_GENERATE), tmp_path / "task", threshold=1.0, every=1)
    ours, trl = (course.marks for course in courses)
    assert [mark.steps for mark in ours] == [mark.steps for mark in trl] == [0, 1, 2]
    assert ours[0].accuracy == trl[0].accuracy > 0
    assert 0 == ours[0].seconds < ours[1].seconds < ours[2].seconds


@pytest.mark.parametrize("plan", tiny(gpu(), "cpu"), ids=lambda plan: plan.name)
def test_the_gpu_experiments_run_on_a_cpu_in_small(tmp_path: Path, plan: Plan) -> None:
    pytest.importorskip("trl")
    prepare_task(plan.settings, tmp_path / "task")
    # Continuous batching has a CPU row of its own, and compiling takes minutes on a CPU.
    contestants = [c for c in plan.contestants if c.name not in ("trl-batching", "trl-compiled")]
    done = run_experiment(
        plan.name, "", plan.settings, contestants, tmp_path / "task", plan.pace(0.0), lambda line: None
    )
    assert [row.failure for row in done.rows] == [""] * len(contestants)
    assert all(s.tokens == 4 * 8 for row in done.rows for s in row.samples)
    ours = done.rows[0].samples[-1]
    assert 0 < ours.speed["mfu/update"] < 1 and ours.logprob_difference is not None


def test_a_whole_small_run_writes_its_files_and_ends_with_the_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl")
    main(["--tiny", "--out", str(tmp_path), "--only", "natural-float32"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("step ratio ")
    results = read_results(tmp_path / "tiny-natural-float32.json")
    assert results.kind == "tiny" and all(not row.failure for row in results.experiments[0].rows)
    assert (tmp_path / "tiny-natural-float32.md").read_text().startswith("Measured on ")
    skips = machinery_of(load_recipe("demo").run.engine).skip_zero_advantage
    assert skips, "the label of the skipping row says that it is the default"
