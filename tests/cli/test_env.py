"""`mathgrpo env`: true, quick, and nothing about who asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.cli import environment
from mathgrpo.cli.look_commands import report_lines
from mathgrpo.config.recipe import LoraSection, ModelSection
from mathgrpo.errors import UserError
from mathgrpo.models import load_policy
from mathgrpo.models.shape import count_parameters, outline


def env(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mathgrpo", "env", *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | variables, check=False,
    )  # fmt: skip


def test_without_a_recipe_nothing_heavier_than_torch_is_loaded() -> None:
    code = (
        "import sys\nfrom mathgrpo.cli import main\nsys.argv = ['mathgrpo', 'env']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('transformers', 'peft', 'datasets', 'bitsandbytes', 'optuna')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "fallback" in done.stdout and done.stderr == ""


def test_the_json_has_all_and_names_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home-of-lovelace"
    home.mkdir()
    secrets = {"HF_TOKEN": "hf_abcdef", "WANDB_API_KEY": "k123secret", "MATHGRPO_API_KEY": "k456secret"}
    done = env(
        "--json", HOME=str(home), USER="lovelace", XDG_CACHE_HOME=str(home / "c"), MATHGRPO_CACHE="",
        CC=str(home / "bin/lovelace/cc"), **secrets,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == [
        "versions",
        "system",
        "device",
        "memory",
        "settings",
        "cache",
        "engines",
        "adapters",
        "extras",
    ]
    assert report["cache"] == "~/c/mathgrpo" and report["settings"]["CC"] == "~/bin/USER/cc"
    assert report["versions"]["torch"].startswith("2.") and report["memory"]["main_gb"] > 1
    assert not any(word in done.stdout for word in ("lovelace", *secrets.values()))
    engines = {each["name"]: each for each in report["engines"]}
    assert engines["fallback"]["works"] and not engines["native, compiled"]["works"]
    assert engines["native, compiled"]["why"].startswith("no C compiler (")


def test_verdicts_follow_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    present: set[str] = {"peft", "triton"}
    monkeypatch.setattr(environment, "find_spec", lambda name: name if name in present else None)
    monkeypatch.delenv("MATHGRPO_VLLM_PYTHON", raising=False)
    cuda = {each.name: each for each in environment.engines(has_cuda=True)}
    assert cuda["native, CUDA graphs"].works and cuda["native, Triton kernels"].works
    assert not cuda["native, compiled"].works and not cuda["vllm"].works
    present.clear()
    assert environment.engines(has_cuda=True)[1].why == "triton is not installed"
    adapters = {each.name: each for each in environment.adapters()}
    assert not adapters["lora"].works and "pip install" in adapters["nf4"].why
    assert all(not each.works and f"mathgrpo[{each.name}]" in each.why for each in environment.extras())
    present.add("uvicorn")  # half of what a part needs is not enough
    assert not {each.name: each for each in environment.extras()}["serve"].works
    present.add("starlette")
    assert {each.name: each for each in environment.extras()}["serve"].works
    monkeypatch.setenv("MATHGRPO_VLLM_PYTHON", sys.executable)
    assert environment.engines(has_cuda=False)[-1].works
    monkeypatch.setenv("MATHGRPO_VLLM_PYTHON", "/nowhere/python")
    assert environment.engines(has_cuda=False)[-1].why == "MATHGRPO_VLLM_PYTHON names no file"


@pytest.mark.parametrize("lora", [None, LoraSection(r=3, target_modules=("q_proj", "v_proj"))])
@pytest.mark.parametrize("tied", [True, False])
def test_the_outline_counts_what_loading_would(tmp_path: Path, tied: bool, lora: LoraSection | None) -> None:
    tiny_model(tie_word_embeddings=tied).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    section = ModelSection(path=str(tmp_path), lora=lora)
    loaded = count_parameters(load_policy(section, "cpu", train=True).model)
    assert outline(section) == ("Qwen2ForCausalLM", loaded) and loaded.quantized == 0


def test_the_outline_counts_4_bits_as_bitsandbytes_makes_them(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tiny_model(tie_word_embeddings=False, hidden_size=64, head_dim=16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    section = ModelSection(path=str(tmp_path), lora=LoraSection(r=2), quantization="nf4")
    loaded = count_parameters(load_policy(section, "cpu", train=True).model)
    assert loaded.quantized > 0 and outline(section)[1] == loaded


def test_a_recipes_model_is_reported() -> None:
    report = environment.environment() | {"recipe": environment.of_recipe("demo", [])}
    assert "parameters     2,402,688 in all, 2,402,688 train (100 %), 0 in 4 bits" in report_lines(report)
    done = env("demo", "--set", "model.lora.r=8")
    assert done.returncode == 0, done.stderr
    assert "parameters     2,540,928 in all, 138,240 train (5.4 %), 0 in 4 bits" in done.stdout
    assert "served by      every native engine that works here" in done.stdout


def test_models_that_are_not_here_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.path=some/model: its shape cannot be told on this machine"):
        outline(ModelSection(path="some/model"))
    done = env("--set", "model.path=x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "no recipe to change" in done.stderr


def test_lines_are_short_enough_for_an_issue(monkeypatch: pytest.MonkeyPatch) -> None:
    report: dict[str, Any] = environment.environment()
    assert all(len(line) <= 120 for line in report_lines(report))
