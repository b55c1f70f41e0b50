"""Checkpoints: transformers' layout, and a resumed run equals one that was not interrupted."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import tiny_model
from mathgrpo import GRPOTrainer
from mathgrpo.errors import UserError
from mathgrpo.trl_api.trainer_checkpoint import checkpoints
from trl_api.trainer_cases import ROWS, length_reward, logs_of, trainer


def weights(run: GRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


TIMED = ("step_time", "time/", "tokens_per_s", "mfu/", "roofline/", "memory/")


def noisy_reward(completions: list[Any], **_: Any) -> list[float]:
    """A reward that draws random numbers, from both generators that scripts use."""
    noise = torch.rand(len(completions)).tolist()
    return [value + random.random() + extra for value, extra in zip(length_reward(completions), noise, strict=True)]


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize(
    "options",
    [{}, {"beta": 0.1}, {"num_iterations": 2}, {"peft_config": lora(), "beta": 0.1, "learning_rate": 1e-2}],
    ids=["plain", "beta", "two updates", "adapter"],
)
def test_a_resumed_run_equals_one_without_interruption(tmp_path: Path, options: dict[str, Any]) -> None:
    """Eight steps cross an epoch (six); the interrupted run stops after four."""
    every = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "reward_funcs": noisy_reward,
             "lr_scheduler_type": "cosine"} | options  # fmt: skip
    whole = trainer(tmp_path / "whole", **every)
    whole.train()
    first = trainer(tmp_path / "parts", **every)
    first.train()
    (tmp_path / "parts" / "checkpoint-8").rename(tmp_path / "gone")
    random.seed(99)
    torch.manual_seed(99)
    resumed = trainer(tmp_path / "parts", model=tiny_model(), **every)
    output = resumed.train(resume_from_checkpoint=True)
    assert output.global_step == 8
    after = weights(resumed)
    assert all(torch.equal(value, after[name]) for name, value in weights(whole).items())
    timeless = [
        [{name: value for name, value in line.items() if not name.startswith(TIMED)} for line in logs_of(run)]
        for run in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]
    moved = [name for name, value in weights(trainer(tmp_path / "new", **every)).items()
             if not torch.equal(value, after[name])]  # fmt: skip
    assert moved, "the run must have changed weights for this test to mean anything"


def test_checkpoints_are_what_transformers_and_peft_read(tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, TrainerState

    run = trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=2)
    run.train()
    assert [folder.name for folder in checkpoints(str(tmp_path))] == ["checkpoint-2", "checkpoint-3"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), run.model.parameters(), strict=True))
    state = TrainerState.load_from_json(str(tmp_path / "checkpoint-3" / "trainer_state.json"))
    assert state.global_step == 3 and state.log_history == [line for line in run.state.log_history if "loss" in line]
    assert not list((tmp_path / "checkpoint-3").glob("*.pt")) + list((tmp_path / "checkpoint-3").glob("*.bin"))

    tiny_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = trainer(tmp_path / "lora", model=base, peft_config=lora(), max_steps=1, learning_rate=1e-2)
    adapted.train()
    adapted.save_model(str(tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    saved = {name: value for name, value in adapted.model.named_parameters() if "lora_" in name}
    assert any(bool(value.any()) for name, value in saved.items() if "lora_B" in name)
    assert all(torch.equal(value, dict(again.named_parameters())[name]) for name, value in saved.items())


def test_save_only_model_cannot_be_resumed_and_says_so(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=1, save_strategy="steps", save_only_model=True).train()
    with pytest.raises(UserError, match="save_only_model"):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_resume_needs_a_checkpoint_that_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint-N folder"):
        trainer(tmp_path).train(resume_from_checkpoint=True)
    trainer(tmp_path, max_steps=1, save_strategy="steps").train()
    other = trainer(tmp_path, model=tiny_model(num_hidden_layers=1))
    with pytest.raises(UserError, match="cannot be read for this model"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    (tmp_path / "checkpoint-1" / "position.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_save_model_save_pretrained_and_save_state(tmp_path: Path) -> None:
    run = trainer(tmp_path / "out", max_steps=1)
    run.train()
    run.save_model()
    run.save_pretrained(str(tmp_path / "other"))
    run.save_state()
    for folder in ("out", "other"):
        assert {"model.safetensors", "tokenizer.json", "config.json"} <= {p.name for p in (tmp_path / folder).iterdir()}
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 1


def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(tmp_path: Path) -> None:
    """Rewards of 1e30 with no scaling give a gradient of infinity after squaring for its norm."""

    def huge(completions: list[Any], **_: Any) -> list[float]:
        return [1e30 * value for value in length_reward(completions)]

    model = tiny_model()
    before = [p.detach().clone() for p in model.parameters()]
    run = trainer(tmp_path, model=model, reward_funcs=huge, scale_rewards=False, train_dataset=ROWS)
    with pytest.raises(UserError, match=r"not finite.*checkpoint-0"):
        run.train()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_layout_of_a_checkpoint_stays_what_older_ones_have(tmp_path: Path) -> None:
    """Resuming reads what was ever written: names of files, of JSON fields, of tensors and of random states."""
    from safetensors.torch import load_file

    trainer(tmp_path, max_steps=1, save_strategy="steps").train()
    folder = tmp_path / "checkpoint-1"
    files = {
        "config.json", "generation_config.json", "model.safetensors", "optimizer.safetensors", "position.json",
        "rng_state.safetensors", "scheduler.json", "tokenizer.json", "tokenizer_config.json", "trainer_state.json",
        "training_args.json",
    }  # fmt: skip
    assert files <= {path.name for path in folder.iterdir()}
    assert set(json.loads((folder / "position.json").read_text())) == {"rollout", "token_budget"}
    randoms = load_file(folder / "rng_state.safetensors")
    assert set(randoms) - {"cuda"} == {"torch", "python", "python_gauss", "numpy", "numpy_gauss"}
    assert {name.rpartition("/")[2] for name in load_file(folder / "optimizer.safetensors")} == {
        "step", "exp_avg", "exp_avg_sq",
    }  # fmt: skip
