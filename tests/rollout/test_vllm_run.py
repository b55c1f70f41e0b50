"""Whole runs with [rollout.vllm]: against the stand-in, and against the real server where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.grpo.importance import Importance
from mathgrpo.rollout.vllm.versions import PYTHON_VARIABLE
from mathgrpo.training import train
from mathgrpo.training.recipe_task import RecipeTask
from rollout.test_vllm_engine import saved, tiny_policy
from rollout.vllm_standin import StandIn, fake_python, serving


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def require_verified_steps(folder: Path, steps: int) -> None:
    """Every step pushed the weights, and sampler and trainer agreed on the tokens drawn."""
    rows = rows_of(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    for row in rows:
        assert not row["vllm/pushed"] or row["vllm/probe_difference/max"] < 2e-3
        assert row["sampling/logprob_difference/max"] < 2e-3
        assert row["importance/mean"] == pytest.approx(1.0, abs=1e-3) and row["importance/capped"] == 0.0
    assert sum(row["vllm/pushed"] for row in rows) >= steps - 1  # the first step's were pushed for the evaluation
    info = json.loads((folder / "run.json").read_text())
    assert info["engine"] == "vllm" and info["status"] == "finished"
    assert any("trial passed" in note for note in info["notes"])


@pytest.mark.parametrize(
    ("rollout", "weights"),
    [
        ({}, None),
        ({"vllm": {}}, Importance(high=3.0, mask=False, whole=False)),
        ({"vllm": {"importance_cap": 2.0}}, Importance(high=2.0, mask=False, whole=False)),
        ({"vllm": {"importance_cap": 0.0}}, None),
    ],
)
def test_tokens_of_vllm_alone_are_weighed_and_a_cap_of_0_weighs_none(
    rollout: dict[str, Any], weights: Importance | None
) -> None:
    ready: Any = SimpleNamespace(recipe=validated(Recipe, {"rollout": rollout}))
    assert RecipeTask(ready).lesson([], 0).importance == weights


def tiny_recipe(tmp_path: Path, **vllm: Any) -> Recipe:
    saved(tiny_policy(), tmp_path / "model")
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 21)]
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "my.py").write_text(
        "def vowels(prompts, completions, **columns):\n"
        "    return [sum(c[0]['content'].count(v) for v in 'aeiou') / 8 for c in completions]\n"
    )
    return validated(
        Recipe,
        {
            "run": {"output_dir": str(tmp_path), "name": "run"},
            "model": {"path": str(tmp_path / "model"), "dtype": "float32"},
            "problems": {"source": str(tmp_path / "problems.jsonl"), "train_size": 12, "heldout_size": 3},
            "rewards": {f"{tmp_path / 'my.py'}:vowels": 1.0},
            "rollout": {"prompts_per_step": 3, "group_size": 4, "max_new_tokens": 8, "vllm": vllm},
            "optimizer": {"learning_rate": 1e-3},
            "training": {"steps": 3},
        },
    )


def test_a_run_pushes_verifies_and_learns(tmp_path: Path) -> None:
    standin = StandIn(saved(tiny_policy(), tmp_path / "served"))
    with serving(standin) as url:
        folder = train(tiny_recipe(tmp_path, url=url), recipe_name="tiny")
    require_verified_steps(folder, 3)


def test_a_run_starts_and_ends_its_own_server_and_keeps_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(fake_python(tmp_path)))
    folder = train(tiny_recipe(tmp_path), recipe_name="tiny")
    require_verified_steps(folder, 3)
    log = (folder / "vllm.log").read_text()
    assert not Path(f"/proc/{int(log.split('serving ')[1].split()[0])}").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(PYTHON_VARIABLE not in os.environ, reason=f"{PYTHON_VARIABLE} names no Python with vLLM")
def test_two_steps_of_the_starter_on_the_real_server(tmp_path: Path) -> None:
    recipe = validated(
        Recipe,
        {
            "run": {"output_dir": str(tmp_path), "name": "run"},
            "model": {"path": "starter", "dtype": "float32"},
            "problems": {"train_size": 200, "heldout_size": 20},
            "rollout": {
                "prompts_per_step": 16, "group_size": 8, "max_new_tokens": 96,
                "vllm": {"arguments": ["--enforce-eager"]},
            },
            "optimizer": {"learning_rate": 1e-4},
            "training": {"steps": 2},
        },
    )  # fmt: skip
    folder = train(recipe, recipe_name="starter")
    require_verified_steps(folder, 2)
    assert (folder / "vllm.log").is_file()
