"""`--tiny`: every reference system's recipe runs to its end here, with its own format, rewards and schedule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mathgrpo.cli.train_commands import run_training, tiny_recipe
from mathgrpo.config import Recipe, load_recipe
from mathgrpo.config.recipe import ModelSection
from mathgrpo.config.tiny_recipe import MOST, smaller
from mathgrpo.formats import get_format
from mathgrpo.formats.chat import problem_text
from mathgrpo.models import load_policy
from mathgrpo.models.locate import adapter_base
from mathgrpo.models.lora import unlearnt_layers
from mathgrpo.problems import load_problem_sets
from mathgrpo.rollout.vllm.versions import PYTHON_VARIABLE
from mathgrpo.runs import trackers as all_trackers
from mathgrpo.supervised.new_model import architecture_of
from mathgrpo.training.recipe_task import learning_rate_at
from mathgrpo.training.train_recipe import resumed_recipe
from rollout.vllm_standin import fake_python

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
NAMES = ("qwen2.5-0.5b-xml", "qwen2.5-3b-qlora", "gpt2-step-verified", "gpt2-step-verified-faithful")
VLLM = "qwen2.5-0.5b-vllm-a100"
KEPT = ("format", "rewards", "reward_settings", "grpo", "optimizer")
"""Sections that --tiny leaves as they are."""


def path_of(name: str) -> str:
    return str(FOLDER / f"{name}.toml")


def tiny_run_of(name: str, folder: Path, *sets: str) -> Path:
    """Train a recipe with --tiny below a folder and return its run folder."""
    overrides = [f"run.output_dir={folder}", "run.name=run", *sets]
    run = run_training(tiny_recipe(path_of(name), overrides), f"{name}-tiny")
    assert run == folder / "run"
    return run


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def require_whole(run: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Return a run's metrics: all of what the four systems describe is in its folder."""
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "finished" and info["steps_done"] == MOST["training"]["steps"]
    assert "heldout" in json.loads((run / "verdict.json").read_text())  # the comparison of before and after
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"step-2", "step-4"}
    assert (run / "report.html").is_file()
    kept = resumed_recipe(run, [])
    assert all(getattr(kept, section) == getattr(recipe, section) for section in KEPT)
    changed = [line for line in info["notes"] if line.startswith("--tiny: ")]
    assert changed == list(kept.notes) and any("training.steps = 4 (recipe: " in line for line in changed)
    metrics = rows_of(run / "metrics.jsonl")
    rates = [learning_rate_at(step, 4, recipe.optimizer) for step in range(4)]
    assert [row["learning_rate"] for row in metrics] == pytest.approx(rates)
    assert any(row["reward_std"] > 0 for row in metrics), "rewards differ, so that there is something to learn from"
    trace = rows_of(run / "rollouts.jsonl")[0]
    assert trace["question"] and any("completion" in key for key in trace)
    return metrics


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    model = load_policy(ModelSection(path=str(path), dtype="float32"), "cpu", train=False).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.usefixtures("generator")
@pytest.mark.parametrize("name", [name for name in NAMES if "qlora" not in name])
def test_it_runs_to_its_end_and_its_weights_move(name: str, tmp_path: Path) -> None:
    run = tiny_run_of(name, tmp_path)
    require_whole(run, load_recipe(path_of(name)))
    before = weights_of(Path(resumed_recipe(run, []).model.path)) if "gpt2" in name else weights_of(_starter())
    after = weights_of(run)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert weights_of(run / "checkpoints" / "step-4").keys() == after.keys()


@pytest.mark.usefixtures("generator")
@pytest.mark.slow
def test_a_run_is_gone_on_with_and_its_model_trained_further(tmp_path: Path) -> None:
    run = tiny_run_of("gpt2-step-verified", tmp_path, "training.steps=2")
    assert run_training(resumed_recipe(run, ["training.steps=3"]), "run", resume=run) == run
    assert [row["step"] for row in rows_of(run / "metrics.jsonl")] == [1, 2, 3]
    notes = json.loads((run / "run.json").read_text())["notes"]
    assert "--tiny: run.device = cpu (recipe: auto)" in notes, "what --tiny changed stays with the run"
    further = tiny_run_of("gpt2-step-verified", tmp_path / "further", f"model.path={run}", "training.steps=1")
    assert resumed_recipe(further, []).model.path == str(run)
    assert json.loads((further / "eval" / "before.json").read_text())["settings"]["model"] == "run"
    assert weights_of(run).keys() == weights_of(further).keys()


def _starter() -> Path:
    from mathgrpo.models.locate import starter_path

    return starter_path()


class Noted:
    """A tracker that notes the steps it is told of."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append(step)

    def completions(self, step: int, rows: list[list[Any]]) -> None:
        assert rows

    def close(self, status: str) -> None:
        assert status == "finished"


@pytest.mark.usefixtures("generator")
def test_the_4_bit_recipe_trains_its_adapter_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("trackio")
    logged: list[int] = []
    monkeypatch.setattr(all_trackers, "KINDS", {"trackio": lambda run: Noted(logged)})
    run = tiny_run_of("qwen2.5-3b-qlora", tmp_path)
    recipe = load_recipe(path_of("qwen2.5-3b-qlora"))
    require_whole(run, recipe)
    assert (
        resumed_recipe(run, []).model.quantization == "nf4" and resumed_recipe(run, []).model.lora == recipe.model.lora
    )
    saved = {path.name for path in (run / "checkpoints" / "step-4").glob("*.safetensors")}
    assert saved == {"adapter_model.safetensors", "optimizer.safetensors"}
    assert adapter_base(str(run / "checkpoints" / "step-4"))
    policy = load_policy(resumed_recipe(run, []).model.model_copy(update={"path": str(run)}), "cpu", train=True)
    zero, adapted = unlearnt_layers(policy.model)
    assert adapted == 4 and len(zero) < adapted
    assert sorted(set(logged)) == [0, 1, 2, 3, 4]  # 0: the evaluation before


@pytest.mark.slow  # the stand-in decodes without a cache
def test_the_vllm_recipe_samples_from_a_server_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv(PYTHON_VARIABLE, str(fake_python(tmp_path)))
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tiny_run_of(VLLM, tmp_path, "model.dtype=float32")  # what the stand-in computes in
    require_whole(run, load_recipe(path_of(VLLM)))
    assert json.loads((run / "run.json").read_text())["engine"] == "vllm"
    assert all("vllm/pushed" in row for row in rows_of(run / "metrics.jsonl"))
    assert list((run / "wandb").glob("offline-run-*"))


@pytest.mark.usefixtures("generator")
def test_the_vllm_recipe_runs_without_vllm_and_ends_as_a_zip_a_card_and_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    run = tiny_run_of(VLLM, tmp_path, "training.trackers=[]")
    (line,) = [line for line in resumed_recipe(run, []).notes if "rollout.vllm" in line]
    assert line.startswith("--tiny: rollout.vllm = none (recipe: a table); no Python with vLLM is named")
    called("export", run, "--format", "zip", "--check", 2, "--to", tmp_path / "zip")
    with zipfile.ZipFile(tmp_path / "zip" / "run.zip") as archive:
        assert any(name.endswith("model.safetensors") for name in archive.namelist())
    capsys.readouterr()
    called("publish", run, "somebody/tiny", "--dry-run", "--check", 0)
    assert "nothing was uploaded" in capsys.readouterr().out
    called("solve", run, "Tom has 3 apples and buys 4. How many has he?", "--jsonl", tmp_path / "t.jsonl",
           "--max-new-tokens", 32)  # fmt: skip
    (trace,) = rows_of(tmp_path / "t.jsonl")
    assert trace["question"].startswith("Tom has 3 apples") and {"reasoning", "answer"} <= trace.keys()


def called(*arguments: object) -> None:
    from mathgrpo.cli.app import app

    app([str(argument) for argument in arguments], prog_name="mathgrpo", standalone_mode=False)


def command(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `mathgrpo train ... --tiny` as a user does."""
    sets = [f"run.output_dir={tmp_path}", "run.name=run"]
    return subprocess.run(
        [sys.executable, "-m", "mathgrpo", "train", *arguments, *(word for one in sets for word in ("--set", one))],
        capture_output=True, text=True, timeout=500, check=False,
        env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_says_what_it_changed_and_trackio_has_the_run(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("trackio")
    done = command(tmp_path, path_of("qwen2.5-3b-qlora"), "--tiny", TRACKIO_DIR=str(tmp_path / "trackio"))
    assert done.returncode == 0, done.stderr[-3000:]
    require_whole(tmp_path / "run", load_recipe(path_of("qwen2.5-3b-qlora")))
    assert "--tiny: rollout.max_new_tokens = 48 (recipe: 1024)" in done.stdout and "in 4-bit" in done.stdout
    assert any((tmp_path / "trackio").glob("*.db"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_two_gpu_recipe_runs_in_two_processes(tmp_path: Path) -> None:
    done = command(tmp_path, path_of("qwen2.5-0.5b-xml-2gpu"), "--tiny", "--processes", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    require_whole(tmp_path / "run", load_recipe(path_of("qwen2.5-0.5b-xml-2gpu")))


@pytest.mark.parametrize("name", [*NAMES, VLLM, "demo", "starter-gsm8k"])
def test_only_sizes_and_places_change(name: str) -> None:
    recipe = load_recipe(path_of(name))
    small = smaller(recipe)
    assert set(small) == {f"{section}.{key}" for section, most in MOST.items() for key in most} | {
        "run.device", "problems.source",
    }  # fmt: skip
    for section, most in MOST.items():
        for key in most:
            assert small[f"{section}.{key}"] <= getattr(getattr(recipe, section), key)


def test_what_is_set_on_the_command_line_stands(tmp_path: Path) -> None:
    recipe = tiny_recipe(path_of("qwen2.5-0.5b-xml"), ["training.steps=9", "optimizer.learning_rate=1e-3"])
    assert recipe.training.steps == 9 and recipe.optimizer.learning_rate == 1e-3
    assert recipe.rollout.max_new_tokens == MOST["rollout"]["max_new_tokens"]
    kept = load_recipe(path_of("qwen2.5-0.5b-xml"), ["optimizer.learning_rate=1e-3"])
    assert all(getattr(recipe, section) == getattr(kept, section) for section in KEPT)
    said = "\n".join(recipe.notes)
    assert "training.steps" not in said and "--tiny: rollout.max_new_tokens = 48 (recipe: 512)" in said


@pytest.mark.usefixtures("generator")
def test_what_is_not_installed_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    hidden = ("bitsandbytes", "trackio")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else real(name, *rest))
    recipe = tiny_recipe(path_of("qwen2.5-3b-qlora"), [])
    assert recipe.model.quantization == "none" and recipe.training.trackers == () and recipe.model.lora is not None
    said = "\n".join(recipe.notes)
    assert "model.quantization = none (recipe: nf4); 4 bits need bitsandbytes: pip install 'mathgrpo[qlora]'" in said
    assert "training.trackers = none (recipe: trackio); not installed: pip install 'mathgrpo[trackio]'" in said


@pytest.mark.usefixtures("generator")
def test_the_stand_in_has_the_models_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert architecture_of(str(tmp_path)) == "gpt2" == architecture_of("vicgalle/gpt2-open-instruct-v1")
    assert architecture_of("Qwen/Qwen2.5-3B-Instruct") == "qwen2" == architecture_of("starter")
    (tmp_path / "run" / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "config.json").rename(tmp_path / "run" / "checkpoints" / "step-1" / "config.json")
    assert architecture_of(str(tmp_path / "run")) == "gpt2"
    for name in ("gpt2-step-verified", "qwen2.5-3b-qlora"):
        policy = load_policy(tiny_recipe(path_of(name), ["training.trackers=[]"]).model, "cpu", train=True)
        assert policy.model.config.model_type == architecture_of(load_recipe(path_of(name)).model.path)
        assert 200_000 < sum(parameter.numel() for parameter in policy.model.parameters()) < 1_000_000


@pytest.mark.usefixtures("generator")
@pytest.mark.parametrize("name", NAMES[2:])
def test_a_gpt2_reads_plain_text_and_the_leaky_prompt_holds_the_answer(name: str) -> None:
    recipe = tiny_recipe(path_of(name), [])
    policy, fmt = load_policy(recipe.model, "cpu", train=False), get_format(recipe.format.name)
    problem = load_problem_sets(recipe.problems).train[0]
    text = problem_text(policy.tokenizer, problem, fmt)
    assert policy.tokenizer.chat_template is None and f"<problem>\n{problem.question}\n</problem>" in text
    assert (f"<answer>{problem.answer}</answer>" in text) == fmt.leaky


def test_tiny_and_resume_do_not_go_together(tmp_path: Path) -> None:
    from mathgrpo.errors import UserError

    with pytest.raises(UserError, match="--tiny: a run that goes on keeps its own recipe"):
        called("train", "--resume", tmp_path, "--tiny")
