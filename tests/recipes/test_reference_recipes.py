"""The reference systems' recipes hold the reference systems' values, and open with how they are run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from mathgrpo.config import Recipe, load_recipe
from mathgrpo.training.recipe_task import learning_rate_at

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
GSM8K_TRAIN = 7473
ONE = "qwen2.5-0.5b-xml"
REWARDS = {
    "xml": ("xml_count", "soft_format", "strict_format"),
    "multi": ("format_exactly", "format_approximately", "answer_correctness", "numbers_extraction"),
}
CLIPPED_COSINE = {
    "optimizer.learning_rate": 5e-6, "optimizer.betas": (0.9, 0.99), "optimizer.weight_decay": 0.1,
    "optimizer.schedule": "cosine", "optimizer.warmup_ratio": 0.1, "optimizer.max_grad_norm": 0.1,
}  # fmt: skip
SYSTEM_1 = CLIPPED_COSINE | {
    "model.path": "Qwen/Qwen2.5-0.5B-Instruct", "model.dtype": "float32", "model.lora": None,
    "problems.source": "openai/gsm8k", "problems.train_size": GSM8K_TRAIN, "format.name": "xml",
    "rewards": {f"reference_{name}": 1.0 for name in (*REWARDS["xml"], "integer", "correctness")},
    "rollout.group_size": 4, "rollout.max_new_tokens": 512, "training.steps": 400, "training.checkpoint_every": 100,
}  # fmt: skip
SYSTEM_3 = {
    "model.path": "vicgalle/gpt2-open-instruct-v1", "problems.train_size": 1000, "rollout.group_size": 4,
    "rollout.max_new_tokens": 128, "optimizer.learning_rate": 5e-6, "grpo.beta": 0.02, "training.steps": 45,
}  # fmt: skip
VALUES: dict[str, dict[str, Any]] = {
    ONE: SYSTEM_1,
    f"{ONE}-2gpu": SYSTEM_1,
    "qwen2.5-3b-qlora": {
        "model.path": "Qwen/Qwen2.5-3B-Instruct", "model.quantization": "nf4",
        "model.lora.r": 16, "model.lora.alpha": 32, "model.lora.dropout": 0.1,
        "model.lora.target_modules": ("q_proj", "v_proj"), "format.name": "working_out",
        "rewards": {f"multi_{name}": 1.0 for name in REWARDS["multi"]}, "rollout.group_size": 8,
        "rollout.max_new_tokens": 1024, "optimizer.learning_rate": 5e-6,
        "optimizer.max_grad_norm": 0.1, "optimizer.schedule": "linear", "training.trackers": ("trackio",),
    },
    "gpt2-step-verified": SYSTEM_3 | {"format.name": "think", "rewards": {"correct": 0.4, "verified_steps": 0.6}},
    "gpt2-step-verified-faithful": SYSTEM_3
    | {"format.name": "think_leaky", "rewards": {"step_verified_reference": 1.0}},
    "qwen2.5-0.5b-vllm-a100": CLIPPED_COSINE
    | {
        "model.path": "Qwen/Qwen2.5-0.5B-Instruct", "model.dtype": "bfloat16", "format.name": "xml",
        "rewards": {f"gist_{name}": 1.0 for name in REWARDS["xml"]}
        | {"reference_integer": 1.0, "reference_correctness": 1.0},
        "rollout.vllm.gpu_memory_utilization": 0.3, "rollout.group_size": 16,
        "training.checkpoint_every": 100, "training.trackers": ("wandb",),
    },
}  # fmt: skip
BATCH = {  # per device, accumulated, devices, completions of each question
    ONE: (8, 2, 1, 4),
    f"{ONE}-2gpu": (8, 1, 2, 4),
    "qwen2.5-3b-qlora": (2, 8, 1, 8),
    "gpt2-step-verified": (64, 4, 1, 4),
    "gpt2-step-verified-faithful": (64, 4, 1, 4),
    "qwen2.5-0.5b-vllm-a100": (16, 4, 1, 16),  # 1 per device, counted in questions
}


def value(recipe: Recipe, path: str) -> Any:
    found: Any = recipe
    for name in path.split("."):
        found = getattr(found, name)
    return found


def header(name: str) -> list[str]:
    """Return the comment a recipe opens with."""
    lines = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return lines


@pytest.mark.parametrize("name", VALUES)
def test_its_values_are_the_systems(name: str) -> None:
    recipe = load_recipe(str(FOLDER / f"{name}.toml"))
    assert {path: value(recipe, path) for path in VALUES[name]} == VALUES[name]


@pytest.mark.parametrize("name", BATCH)
def test_a_step_has_as_many_questions_as_there(name: str) -> None:
    per_device, accumulated, devices, group = BATCH[name]
    rollout = load_recipe(str(FOLDER / f"{name}.toml")).rollout
    assert (rollout.prompts_per_step, rollout.group_size) == (per_device * accumulated * devices // group, group)


def test_epochs_are_counted_in_whole_steps() -> None:
    one_epoch = load_recipe(str(FOLDER / "qwen2.5-0.5b-vllm-a100.toml"))
    assert one_epoch.training.steps == GSM8K_TRAIN // one_epoch.rollout.prompts_per_step
    three = load_recipe(str(FOLDER / "gpt2-step-verified.toml"))
    assert three.training.steps == 3 * (three.problems.train_size // three.rollout.prompts_per_step)


@pytest.mark.shared
def test_gsm8k_has_as_many_problems_as_the_arithmetic_says(gsm8k_folder: Path) -> None:
    from mathgrpo.problems import load_problem_sets

    section = load_recipe(str(FOLDER / f"{ONE}.toml")).problems.model_copy(update={"source": str(gsm8k_folder)})
    sets = load_problem_sets(section)
    assert (len(sets.train), len(sets.heldout)) == (GSM8K_TRAIN, 1319)


def test_warm_up_is_a_tenth_of_the_run() -> None:
    recipe = load_recipe(str(FOLDER / f"{ONE}.toml"))
    rates = [learning_rate_at(step, 400, recipe.optimizer) for step in range(400)]
    assert max(range(400), key=rates.__getitem__) == 40 and max(rates) == 5e-6 and rates[0] == 0.0
    assert math.isclose(rates[220], 2.5e-6)


def test_two_gpus_train_what_one_trains() -> None:
    assert load_recipe(str(FOLDER / f"{ONE}-2gpu.toml")) == load_recipe(str(FOLDER / f"{ONE}.toml"))


def test_padding_with_true_lines_pays_only_in_the_faithful_one() -> None:
    from mathgrpo.formats import get_format
    from mathgrpo.rewards import build_suite

    padded = "<think>\n" + "\n".join(f"{n} + 0 = {n}" for n in range(1, 11)) + "\n</think>\n\n<answer>3</answer>"
    honest = "<think>\n9 * 2 = 18\n</think>\n\n<answer>18</answer>"
    paid = {}
    for name in ("gpt2-step-verified", "gpt2-step-verified-faithful"):
        recipe = load_recipe(str(FOLDER / f"{name}.toml"))
        suite = build_suite(recipe.rewards, get_format(recipe.format.name), recipe.reward_settings, 128)
        columns = {"answer": ["18"] * 2, "question": ["A pair has 2 shoes. How many shoes are in 9 pairs?"] * 2}
        paid[name] = suite.score(["?"] * 2, [padded, honest], columns).totals
    assert paid["gpt2-step-verified"][0] < 0.1 < 0.4 < paid["gpt2-step-verified"][1]
    assert paid["gpt2-step-verified-faithful"][0] > paid["gpt2-step-verified-faithful"][1]


@pytest.mark.parametrize("name", VALUES)
def test_it_opens_with_command_needs_cost_and_what_to_expect(name: str) -> None:
    first, *rest = header(name)
    text = " ".join(line.removeprefix("#").strip() for line in rest)
    assert re.fullmatch(rf"# mathgrpo train {re.escape(name)}( --processes 2)?", first)
    assert "Needs" in text and "estimated" in text and "Expect: not measured here" in text
    assert "Batch" in text and f"questions x {BATCH[name][3]}" in text
    assert "--tiny" in text or "as gpt2-step-verified" in text


def test_the_two_gpu_recipe_is_launched_on_two() -> None:
    lines = header(f"{ONE}-2gpu")
    assert lines[0].endswith("--processes 2") and any(
        "torchrun --nproc-per-node 2 -m mathgrpo" in line for line in lines
    )
