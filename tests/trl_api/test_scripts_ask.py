"""What scripts, callbacks and notebooks ask of a trainer beside train(): reports, cards, best metric, flow, ends."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainerCallback

from fakes import tiny_model, tiny_tokenizer
from mathgrpo import GRPOTrainer
from mathgrpo.errors import UserError
from trl_api.trainer_cases import ROWS, config, length_reward, logs_of, trainer


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **options)


def test_the_end_of_open_r1_s_script(tmp_path: Path, capsys: Any) -> None:
    run = trainer(tmp_path, max_steps=2, eval_dataset=ROWS[:2])
    metrics = run.train().metrics
    metrics["train_samples"] = len(ROWS)
    run.log_metrics("train", metrics)
    run.save_metrics("train", metrics)
    run.save_state()
    run.save_model(run.args.output_dir)
    assert run.accelerator.is_main_process and not run.is_fsdp_enabled and not run.is_deepspeed_enabled
    run.create_model_card(dataset_name="openai/gsm8k", tags=["open-r1"])
    run.model.config.use_cache = True
    run.model.config.save_pretrained(run.args.output_dir)
    metrics = run.evaluate()
    run.log_metrics("eval", metrics)
    run.save_metrics("eval", metrics)
    run.end()
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["train_samples"] == 12 and "eval_reward" in results
    assert "train_loss" not in json.loads((tmp_path / "eval_results.json").read_text())
    assert "***** eval metrics *****" in capsys.readouterr().out
    card = (tmp_path / "README.md").read_text()
    assert "openai/gsm8k" in card and "open-r1" in card and str(tmp_path) not in card
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 2
    assert {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"} <= set(metrics)


def test_the_model_generates_outside_the_trainer_afterwards(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=1, model_init_kwargs={"use_cache": False})
    run.train()
    ids = run.processing_class("1 + 1 = ", return_tensors="pt")
    assert run.model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] <= ids["input_ids"].shape[1] + 3


def test_early_stopping_follows_the_metric(tmp_path: Path) -> None:
    """Rewards that fall at every evaluation: after two in a row the run ends, and the best one is in the state."""
    calls = {"n": 0}

    def falling(completions: list[Any], **_: Any) -> list[float]:
        calls["n"] += 1
        return [value / 1000 - calls["n"] for value in length_reward(completions)]

    run = trainer(
        tmp_path, reward_funcs=falling, max_steps=6, eval_strategy="steps", eval_steps=1, eval_dataset=ROWS[:2],
        metric_for_best_model="reward", callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )  # fmt: skip
    run.train()
    evaluated = [line["eval_reward"] for line in run.state.log_history if "eval_reward" in line]
    assert run.state.global_step == 3 and len(evaluated) == 3
    assert run.state.best_metric == max(evaluated) and run.state.best_global_step == 1


def test_intervals_hold_where_a_turn_takes_several_steps(tmp_path: Path) -> None:
    run = trainer(tmp_path, num_iterations=2, max_steps=8, logging_steps=3, save_strategy="steps", save_steps=5,
                  max_completion_length=4)  # fmt: skip
    run.train()
    assert [line["step"] for line in logs_of(run)] == [4, 6]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-6", "checkpoint-8"]
    resumed = trainer(tmp_path, num_iterations=2, max_steps=8, logging_steps=3, save_strategy="steps", save_steps=5,
                      max_completion_length=4)  # fmt: skip
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert [line["step"] for line in logs_of(resumed)] == [4, 6], "step 8 is no multiple of 3"


def test_a_divided_generation_steps_and_resumes_like_a_whole_one(tmp_path: Path) -> None:
    rates: list[float] = []

    class Rates(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    options: dict[str, Any] = {
        "steps_per_generation": 4, "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "seed": 1,
        "max_completion_length": 6, "beta": 0.05,
    }  # fmt: skip
    whole = trainer(tmp_path / "a", callbacks=[Rates()], **options)
    whole.train()
    assert rates == pytest.approx([1e-3 * (6 - i) / 6 for i in range(6)])
    assert whole.state.global_step == 6 and whole.state.epoch == 1.0
    resumed = trainer(tmp_path / "b", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    for ours, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_an_adapter_that_learns_nothing_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the adapter did not learn.*learning_rate"):
        trainer(tmp_path, max_steps=1, peft_config=lora(), reward_funcs=lambda completions: [0.0] * 8).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer(tmp_path, max_steps=1, peft_config=lora(), learning_rate=0.1).train()


def test_a_second_call_of_train_begins_anew(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=2)
    run.train()
    run.train()
    assert run.state.global_step == 2 and [line["step"] for line in logs_of(run)] == [1, 2]


def test_a_hub_that_does_not_answer_is_told_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^push_to_hub=True: .*hf upload me/tiny"):
        trainer(tmp_path, push_to_hub=True, hub_model_id="me/tiny")
    assert trainer(tmp_path / "name").hub_model_id == "name"


def test_a_hub_that_goes_away_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathgrpo.trl_api.trainer.require_hub", lambda args: None)
    run = trainer(tmp_path, push_to_hub=True, max_steps=2, save_strategy="steps", save_steps=1)
    with pytest.warns(UserWarning, match="does not answer"), pytest.raises(UserError, match="upload it later"):
        run.train()
    assert run.state.global_step == 2 and (tmp_path / "model.safetensors").is_file()


def test_reward_tokenizers_are_one_for_each_function(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^reward_processing_classes: has 1 values for 2 reward functions"):
        GRPOTrainer(
            tiny_model(), [length_reward, length_reward], trainer(tmp_path).args, ROWS,
            processing_class=tiny_tokenizer(), reward_processing_classes=tiny_tokenizer(),
        )  # fmt: skip


@pytest.mark.parametrize("optim", ["paged_adamw_8bit", "adamw_8bit", "adamw_torch"])
def test_every_name_of_adamw_is_the_same_optimizer(tmp_path: Path, optim: str) -> None:
    """TRL's own QLoRA notebook says paged_adamw_8bit."""
    plain, named = trainer(tmp_path, max_steps=2), trainer(tmp_path, max_steps=2, optim=optim)
    plain.train()
    named.train()
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), named.model.parameters(), strict=True))


def test_clipping_without_a_lower_bound(tmp_path: Path) -> None:
    """DeepSeek-R1's epsilon of 10, as in TRL's paper index."""
    run = trainer(tmp_path, max_steps=4, num_iterations=2, epsilon=10.0, learning_rate=0.05)
    run.train()
    assert all(line["clip_ratio/low_mean"] == 0.0 for line in logs_of(run))


def test_attention_of_the_flash_kind_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("org/tiny")
    tiny_tokenizer().save_pretrained("org/tiny")
    run = trainer(
        tmp_path / "out", model="org/tiny", max_steps=1,
        model_init_kwargs={"attn_implementation": "flash_attention_2", "revision": "main", "dtype": "bfloat16",
                           "quantization_config": None, "use_cache": False},
    )  # fmt: skip
    run.train()
    assert next(run.model.parameters()).dtype == torch.float32


def test_compute_copies_are_in_the_model_only_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks and rewards meet float32 masters; the weights are those of a run without copies, bit for bit."""
    seen: list[torch.dtype] = []
    rates: list[float] = []

    class Types(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            seen.extend(parameter.dtype for parameter in model.parameters())
            model.generate(input_ids=torch.tensor([[7, 8]]), max_new_tokens=2)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            rates.append(given["optimizer"].param_groups[0]["lr"])
            working.add(given["model"].model.layers[0].mlp.up_proj.weight.dtype)

    monkeypatch.setattr("mathgrpo.update.choose_passes._elsewhere", lambda policy, section: True)  # as on CUDA
    ends, working = [], set[torch.dtype]()
    for copies in (False, True):
        monkeypatch.setattr("mathgrpo.optim.optimizer._wants_copies", lambda *_, copies=copies: copies)
        run = trainer(tmp_path / str(copies), bf16=True, max_steps=3, callbacks=[Types()], save_strategy="steps",
                      learning_rate=1e-2, save_steps=3)  # fmt: skip
        run.train()
        ends.append([parameter.detach().clone() for parameter in run.model.parameters()])
        again = trainer(
            tmp_path / str(copies), bf16=True, max_steps=4, learning_rate=1e-2, lr_scheduler_type="constant"
        )
        again.train(resume_from_checkpoint=True)
        run.train()  # the hooks of the first optimizer stay on the model
    assert rates == pytest.approx([0.01, 0.02 / 3, 0.01 / 3] * 4), "one change of the rate for every optimizer step"
    assert set(seen) == {torch.float32} and working == {torch.float32, torch.bfloat16}
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_memory_that_is_not_there_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathgrpo.training.prepare.own_bytes", lambda world, device: 1_000_000)
    with pytest.raises(UserError, match=r"^model=.*: needs about .* the device has 1.0 MB .*peft_config"):
        trainer(tmp_path).train()


def test_micro_batches_follow_from_the_memory_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int | None] = []
    from mathgrpo.update import Updater

    real = Updater.update

    def noting(*arguments: Any, **options: Any) -> Any:
        budgets.append(options["token_budget"])
        return real(*arguments, **options)

    monkeypatch.setattr(Updater, "update", noting)
    monkeypatch.setattr("mathgrpo.training.prepare.own_bytes", lambda world, device: 1_120_000_000)
    trainer(tmp_path, max_steps=1).train()
    assert budgets[0] is not None and 0 < budgets[0] < 8192


def test_model_and_tokenizer_agree_on_padding(tmp_path: Path) -> None:
    """As in TRL: a tokenizer without a padding token pads with its end token, and the model is told."""
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")
    tokenizer.pad_token = model.config.pad_token_id = model.generation_config.pad_token_id = None
    run = GRPOTrainer(model, length_reward, config(tmp_path, max_steps=1), ROWS, processing_class=tokenizer)
    run.train()
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id == 1


def test_a_prompt_without_room_for_its_completion_is_told_before_the_first_step(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 1020}] * 4
    with pytest.raises(UserError, match=r"^max_completion_length=8: with a prompt of 1020 tokens .* max_prompt_length"):
        trainer(tmp_path, train_dataset=rows).train()
    trainer(tmp_path, train_dataset=rows, max_prompt_length=100, max_steps=1).train()


def test_a_model_is_named_by_a_path_too(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    run = GRPOTrainer(tmp_path / "m", length_reward, config(tmp_path / "out", max_steps=1), ROWS)
    assert run.train().global_step == 1


def test_what_the_engine_cannot_learn_is_told_before_work_starts(tmp_path: Path) -> None:
    from peft import PrefixTuningConfig

    with pytest.raises(UserError, match=r"^peft_config: PrefixTuningConfig puts virtual tokens"):
        trainer(tmp_path, peft_config=PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    with pytest.raises(UserError, match=r"^lr_scheduler_kwargs=.*'cosine' does not take them"):
        trainer(tmp_path, lr_scheduler_type="cosine", lr_scheduler_kwargs={"num_decay_steps": 1}).train()
    picture = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    with pytest.raises(UserError, match="a prompt has a picture"):
        trainer(tmp_path, train_dataset=[{"prompt": picture}] * 4).train()


@pytest.mark.parametrize("adapter", [False, True])
def test_the_best_model_is_loaded_at_the_end(tmp_path: Path, adapter: bool) -> None:
    """Rewards that rise and fall again: the best of three checkpoints is kept, and loaded."""
    level = {2: 1.0, 4: 3.0, 6: 2.0}

    def reward(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        return [value / 1000 + level.get(trainer_state.global_step, 0.0) for value in length_reward(completions)]

    run = trainer(
        tmp_path, reward_funcs=reward, max_steps=6, eval_strategy="steps", eval_steps=2, save_strategy="steps",
        save_steps=2, save_total_limit=1, eval_dataset=ROWS[:2], load_best_model_at_end=True, learning_rate=1e-2,
        metric_for_best_model="reward", peft_config=lora() if adapter else None,
    )  # fmt: skip
    run.train()
    assert run.state.best_global_step == 4 and run.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    run.save_model(str(tmp_path / "final"))
    name = "adapter_model.safetensors" if adapter else "model.safetensors"
    final = load_file(tmp_path / "final" / name)
    best, last = (load_file(tmp_path / f"checkpoint-{step}" / name) for step in (4, 6))
    assert all(torch.equal(final[key], best[key]) for key in best)
    assert any(not torch.equal(final[key], last[key]) for key in last)


def test_a_best_model_that_cannot_be_known_is_told(tmp_path: Path) -> None:
    for fields, message in (
        ({}, "metric_for_best_model=None"),
        ({"metric_for_best_model": "eval_loss"}, "metric_for_best_model='eval_loss'"),
        ({"metric_for_best_model": "reward"}, "load_best_model_at_end=True: eval_strategy='no'"),
        ({"metric_for_best_model": "reward", "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2,
          "save_steps": 3}, "save_steps=3: must be a multiple of eval_steps=2"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^{message}"):
            config(tmp_path, load_best_model_at_end=True, **fields)


def test_a_script_trains_a_model_with_windows_in_longer_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mathgrpo.update import Updater
    from update.test_windows import WINDOW, windowed

    layouts: list[str] = []
    take = Updater.update

    def noted(self: Any, groups: Any, *rest: Any, **named: Any) -> Any:
        assert max(len(group.prompt.ids) for group in groups) > WINDOW
        stats = take(self, groups, *rest, **named)
        layouts.append(stats.layout)
        return stats

    monkeypatch.setattr(Updater, "update", noted)
    rows = [{"prompt": "a question that is longer than the window"}] * 4
    run = GRPOTrainer(
        windowed("Gemma3Text"), length_reward, config(tmp_path, max_steps=2), rows, processing_class=tiny_tokenizer()
    )
    run.train()
    norms = [entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry]
    assert layouts == ["shared"] * 2 and len(norms) == 2 and max(norms) > 0
