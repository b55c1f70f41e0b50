"""GRPOTrainer: what reward functions get, logs, callbacks, evaluation, order of prompts."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import asyncio
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from fakes import tiny_model, tiny_tokenizer
from mathgrpo import GRPOConfig, GRPOTrainer
from mathgrpo.errors import UserError
from mathgrpo.trl_api.dataset import Schedule
from trl_api.trainer_cases import PLAIN_ROWS, ROWS, config, length_reward, logs_of, trainer


def test_reward_functions_get_what_trl_passes(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def reward(**keywords: Any) -> list[float]:
        calls.append(keywords)
        return length_reward(**keywords)

    run = trainer(tmp_path, reward_funcs=reward, max_steps=2)
    run.train()
    assert len(calls) == 2
    assert set(calls[0]) == {
        "prompts", "completions", "completion_ids", "answer", "level", "trainer_state", "log_extra", "log_metric",
    }  # fmt: skip
    call = calls[0]
    assert all(len(call[name]) == 8 for name in ("prompts", "completions", "completion_ids", "answer", "level"))
    assert call["prompts"][:4] == [call["prompts"][0]] * 4 and call["prompts"][0] in [row["prompt"] for row in ROWS]
    index = [row["prompt"] for row in ROWS].index(call["prompts"][0])
    assert call["answer"][0] == ROWS[index]["answer"] and call["level"][3] == ROWS[index]["level"]
    assert call["completions"][0][0]["role"] == "assistant"
    expected = tiny_tokenizer().decode(call["completion_ids"][0], skip_special_tokens=True)
    assert call["completions"][0][0]["content"] == expected
    assert call["trainer_state"] is run.state


def test_plain_prompts_give_plain_completions_and_keep_types_of_columns(tmp_path: Path) -> None:
    def reward(prompts: list[str], completions: list[str], answer: list[int]) -> list[float]:
        assert all(isinstance(each, str) for each in [*prompts, *completions])
        assert all(isinstance(each, int) for each in answer)
        return length_reward(completions)

    trainer(tmp_path, reward_funcs=reward, train_dataset=PLAIN_ROWS, max_steps=1).train()


def test_one_function_without_var_keywords_gets_only_what_it_names(tmp_path: Path) -> None:
    def reward(completions: list[Any]) -> list[float]:
        return length_reward(completions)

    trainer(tmp_path, reward_funcs=reward, max_steps=1).train()


def test_sync_and_async_rewards_with_weights_names_and_none(tmp_path: Path) -> None:
    loops = set()

    async def slow(completions: list[Any], **_: Any) -> list[float | None]:
        loops.add(id(asyncio.get_running_loop()))
        await asyncio.sleep(0.001)
        return [None if i % 2 else 1.0 for i, _ in enumerate(completions)]

    partial = functools.partial(length_reward)
    run = trainer(tmp_path, reward_funcs=[slow, partial, length_reward], reward_weights=[10.0, 1.0, 0.0], max_steps=2)
    run.train()
    assert run.reward_func_names == ["slow", "length_reward", "length_reward_2"]
    assert len(loops) == 1, "an async function keeps its event loop, and with it its clients"
    first = logs_of(run)[0]
    assert first["rewards/slow/mean"] == 1.0 and first["rewards/slow/std"] == 0.0
    assert first["reward"] == pytest.approx(10.0 * 0.5 + first["rewards/length_reward/mean"])


def test_a_reward_that_never_applies_has_no_mean_and_moves_nothing(tmp_path: Path) -> None:
    model = tiny_model()
    before = [p.detach().clone() for p in model.parameters()]
    run = trainer(tmp_path, model=model, reward_funcs=lambda completions: [None] * len(completions), max_steps=1)
    run.train()
    (line,) = logs_of(run)
    assert line["reward"] is None and line["rewards/<lambda>/mean"] is None
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: [1.0], "returned 1 values for 8 completions"),
        (lambda completions: [math.nan] * 8, "nan"),
        (lambda completions: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_failing_reward_names_itself(tmp_path: Path, function: Any, message: str) -> None:
    function.__name__ = "culprit"
    with pytest.raises(UserError, match=f"culprit.*{message}"):
        trainer(tmp_path, reward_funcs=function).train()


def test_log_extra_and_log_metric_reach_table_and_history(tmp_path: Path) -> None:
    def reward(completions: list[Any], answer: list[str], log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
        log_extra("gold", answer)
        log_metric("share", 0.25)
        return length_reward(completions)

    run = trainer(tmp_path, reward_funcs=reward, max_steps=1, log_completions=True, num_completions_to_print=1)
    run.train()
    assert logs_of(run)[0]["share"] == 0.25
    lines = (tmp_path / "completions" / "completions_00001.jsonl").read_text().splitlines()
    assert len(lines) == 8 and '"gold": ' in lines[0] and '"advantage": ' in lines[0] and '"reward": ' in lines[0]


def test_logs_have_the_names_of_trl(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=3, beta=0.1, warmup_ratio=0.34, lr_scheduler_type="cosine")
    output = run.train()
    assert output.global_step == run.state.global_step == 3
    names = {
        "loss", "grad_norm", "learning_rate", "num_tokens", "completions/mean_length", "completions/min_length",
        "completions/max_length", "completions/clipped_ratio", "completions/mean_terminated_length",
        "completions/min_terminated_length", "completions/max_terminated_length", "rewards/length_reward/mean",
        "rewards/length_reward/std", "reward", "reward_std", "frac_reward_zero_std", "kl", "entropy",
        "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "step_time", "epoch", "step",
    }  # fmt: skip
    assert all(names <= set(line) for line in logs_of(run))
    assert [line["learning_rate"] for line in logs_of(run)] == pytest.approx([0.0, 5e-4, 1e-3])
    assert [line["epoch"] for line in logs_of(run)] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    last = run.state.log_history[-1]
    assert last["train_loss"] == pytest.approx(sum(line["loss"] for line in logs_of(run)) / 3)
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second"} <= set(output.metrics)


def test_epochs_give_the_steps_that_trl_takes(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=-1, num_train_epochs=1.5, max_completion_length=2)
    run.train()
    assert run.state.global_step == 9 and run.state.epoch == 1.5 and run.state.num_train_epochs == 2


def test_prompts_come_in_the_order_of_trl() -> None:
    utils = pytest.importorskip("trl.trainer.utils")
    theirs = utils.RepeatSampler(range(11), mini_repeat_count=4, batch_size=2, repeat_count=2, shuffle=True, seed=42)
    schedule = Schedule(11, config(Path("x"), max_steps=20, seed=42))
    for epoch in range(3):
        indices = list(theirs)  # each rollout: 2 prompts x 4 completions, given twice for two micro-steps
        expected = [indices[i : i + 16 : 4][:2] for i in range(0, len(indices), 16)]
        assert [schedule.rows(epoch * 5 + i) for i in range(5)] == expected


class Recorder(TrainerCallback):
    """Notes its events; stops and saves when told."""

    def __init__(self, stop_at: int = 99, save_at: int = 99) -> None:
        self.events: list[str] = []
        self.stop_at, self.save_at = stop_at, save_at
        for name in ("train_begin", "train_end", "epoch_begin", "epoch_end", "step_begin", "pre_optimizer_step",
                     "optimizer_step", "log", "save", "evaluate", "init_end"):  # fmt: skip
            setattr(self, f"on_{name}", functools.partial(self._note, name))

    def _note(self, name: str, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert isinstance(args, GRPOConfig)
        self.events.append(name)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **keywords: Any) -> TrainerControl:
        assert keywords["model"] is not None and keywords["processing_class"] is not None
        assert keywords["optimizer"] is not None and keywords["lr_scheduler"] is not None
        self.events.append("step_end")
        control.should_training_stop |= state.global_step >= self.stop_at
        control.should_save |= state.global_step == self.save_at
        return control


def test_callbacks_see_every_event_and_stop_and_save(tmp_path: Path) -> None:
    recorder = Recorder(stop_at=3, save_at=2)
    run = trainer(tmp_path, callbacks=[recorder], max_steps=-1, num_train_epochs=1, eval_strategy="steps", eval_steps=2,
                  eval_dataset=ROWS[:2])  # fmt: skip
    run.train()
    assert run.state.global_step == 3
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]
    step = ["step_begin", "pre_optimizer_step", "optimizer_step", "step_end", "log"]
    assert recorder.events == [
        "init_end", "train_begin", "epoch_begin", *step, *step, "log", "evaluate", "save", *step, "epoch_end",
        "log", "train_end",
    ]  # fmt: skip


def test_callbacks_can_be_added_and_removed(tmp_path: Path) -> None:
    run, recorder = trainer(tmp_path, max_steps=1), Recorder()
    run.add_callback(recorder)
    assert run.pop_callback(Recorder) is recorder
    run.add_callback(recorder)
    run.remove_callback(Recorder)
    run.train()
    assert recorder.events == []


def test_evaluate_several_sets_with_other_group_size(tmp_path: Path) -> None:
    sets = {"a": ROWS[:3], "b": ROWS[3:5]}
    seen: list[int] = []

    def reward(completions: list[Any], **_: Any) -> list[float]:
        seen.append(len(completions))
        return length_reward(completions)

    run = trainer(tmp_path, reward_funcs=reward, eval_dataset=sets, num_generations_eval=2)
    first = run.evaluate()
    assert seen == [4, 2, 4]
    assert {"eval_a_reward", "eval_b_rewards/reward/mean", "eval_a_runtime"} <= set(first)
    again = run.evaluate()
    assert again["eval_a_reward"] == first["eval_a_reward"], "the same weights draw the same completions"


def test_num_iterations_steps_the_schedule_at_every_optimizer_step(tmp_path: Path) -> None:
    run = trainer(tmp_path, num_iterations=2, max_steps=5, max_completion_length=4)
    rates: list[float] = []

    class Rates(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    run.add_callback(Rates())
    run.train()
    assert run.state.global_step == 5 and rates == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4, 2e-4])
    assert [line["step"] for line in logs_of(run)] == [2, 4, 5]


def test_max_prompt_length_keeps_the_last_tokens(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_prompt_length=5)
    groups = run._task.draw_rows(run.engine, ROWS[:2], [0, 1], 2, "test")
    whole = run.processing_class.apply_chat_template(ROWS[0]["prompt"], add_generation_prompt=True, return_dict=True)
    assert list(groups[0].prompt.ids) == whole["input_ids"][-5:]


def test_a_given_optimizer_and_scheduler_are_used(tmp_path: Path) -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=1)
    run = trainer(tmp_path, model=model, optimizers=(optimizer, scheduler), max_steps=2)
    run.train()
    assert run.optimizer is optimizer
    assert [line["learning_rate"] for line in logs_of(run)] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_dataset": {"train": ROWS}}, "dictionary of splits"),
        ({"train_dataset": iter(ROWS)}, "no length"),
        ({"train_dataset": []}, "no rows"),
        ({"train_dataset": [{"question": "?"}]}, 'column "prompt"'),
        ({"train_dataset": ROWS[:1]}, "a step takes 2 prompts"),
        ({"train_dataset": None}, "is required"),
        ({"reward_funcs": None}, "at least one function"),
        ({"reward_funcs": 3}, "is no function"),
        ({"tools": [print]}, "several turns"),
        ({"rollout_func": print}, "is not served"),
        ({"peft_config": {"r": 8}}, "no peft.PeftConfig"),
        ({"processing_class": object()}, "is no tokenizer"),
        ({"model": "no/such/model"}, "model"),
    ],
)
def test_bad_arguments_stop_before_work_starts(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "model": tiny_model(), "reward_funcs": length_reward, "train_dataset": ROWS, "args": config(tmp_path),
        "processing_class": tiny_tokenizer(),
    }  # fmt: skip
    with pytest.raises(UserError, match=message):
        GRPOTrainer(**(given | arguments))


def test_streamed_datasets_are_refused_with_a_remedy(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with pytest.raises(UserError, match="take"):
        trainer(tmp_path, train_dataset=datasets.Dataset.from_list(ROWS).to_iterable_dataset())


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    run = GRPOTrainer(tiny_model(), length_reward, config(tmp_path), ROWS,
                      processing_class=tiny_tokenizer(chat_template=False))  # fmt: skip
    with pytest.raises(UserError, match="no chat template"):
        run.train()


def test_a_model_by_name_brings_its_tokenizer_and_default_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("org/tiny")
    tiny_tokenizer().save_pretrained("org/tiny")
    run = GRPOTrainer("org/tiny", length_reward, train_dataset=ROWS)
    assert run.args.output_dir == "tiny-GRPO" and len(run.processing_class) == len(tiny_tokenizer())


def test_push_to_hub_without_a_hub_is_one_line_and_the_model_is_kept(tmp_path: Path) -> None:
    run = trainer(tmp_path / "name", hub_model_id="me/tiny")
    with pytest.raises(UserError, match="hf upload me/tiny"):
        run.push_to_hub()
    assert (tmp_path / "name" / "model.safetensors").is_file()


def test_a_reward_model_is_a_reward(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "vocab_size": len(tiny_tokenizer()), "num_labels": 1}  # fmt: skip
    Qwen2ForSequenceClassification(Qwen2Config(**shape)).save_pretrained(tmp_path / "judge")
    tiny_tokenizer().save_pretrained(tmp_path / "judge")
    run = trainer(tmp_path / "out", reward_funcs=str(tmp_path / "judge"), max_steps=1)
    run.train()
    assert run.reward_func_names == ["judge"]
    judge = Qwen2ForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "judge")
    answer = [{"role": "assistant", "content": "2"}]
    ids = tokenizer.apply_chat_template([*ROWS[0]["prompt"], *answer], return_dict=True, return_tensors="pt")
    judge.config.pad_token_id = tokenizer.pad_token_id
    (value,) = run.reward_funcs[0](prompts=[ROWS[0]["prompt"]], completions=[answer])
    assert value == pytest.approx(judge(input_ids=ids["input_ids"]).logits.item(), abs=1e-5)
    begun, rest = {"role": "assistant", "content": "It is "}, [{"role": "assistant", "content": "2"}]
    whole = [{"role": "assistant", "content": "It is 2"}]
    pair = run.reward_funcs[0](prompts=[[*ROWS[0]["prompt"], begun], ROWS[0]["prompt"]], completions=[rest, whole])
    assert pair[0] == pytest.approx(pair[1], abs=1e-6), "a begun answer and its end are one turn"


def test_two_evaluations_give_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reward that only the weights decide rises by one from before to after, in every row."""
    run: list[GRPOTrainer] = []

    def steps(completions: list[Any], **_: Any) -> list[float]:
        return [float(run[0].state.global_step >= 2) + i % 4 for i in range(len(completions))]

    run.append(trainer(tmp_path, reward_funcs=steps, eval_dataset=ROWS[:8], eval_strategy="steps", eval_steps=2,
                       eval_on_start=True, max_steps=2))  # fmt: skip
    run[0].train()
    [verdict] = run[0].verdicts
    assert (verdict.before, verdict.after, verdict.low, verdict.high) == (1.5, 2.5, 1.0, 1.0)
    # of 2^8 sign patterns two are as far from 0: 0.0078
    assert verdict.p == pytest.approx(2 / 256, abs=0.002) and verdict.rows == 8
    assert verdict.line == (
        f"eval reward 1.500 → 2.500, +1.000, 95 % interval [1.000, 1.000], p = {verdict.p:.3f}, 8 rows, steps 0 to 2"
    )
    assert verdict.line in capsys.readouterr().out
    assert json.loads((tmp_path / "verdict.json").read_text())["eval"]["line"] == verdict.line


def test_several_rewards_have_a_verdict_each(tmp_path: Path) -> None:
    run: list[GRPOTrainer] = []

    def learnt(completions: list[Any], **_: Any) -> list[float]:
        return [float(run[0].state.global_step >= 1)] * len(completions)

    def same(completions: list[Any], **_: Any) -> list[float]:
        return [i % 4 / 4 for i in range(len(completions))]

    evaluated = {"eval_dataset": ROWS[:8], "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    run.append(trainer(tmp_path, reward_funcs=[learnt, same], max_steps=1, **evaluated))
    run[0].train()
    found = {verdict.function: (verdict.after - verdict.before, verdict.p < 0.05) for verdict in run[0].verdicts}
    assert found == {"": (1.0, True), "learnt": (1.0, True), "same": (0.0, False)}
    written = json.loads((tmp_path / "verdict.json").read_text())
    assert list(written) == ["eval", "eval/learnt", "eval/same"]
    assert written["eval/learnt"]["line"].startswith("eval reward learnt 0.000 → 1.000, +1.000, 95 % interval")


def test_logs_say_how_well_the_machine_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path, max_steps=1)
    run.train()
    assert {"time/rollout", "time/update", "mfu/update", "roofline/rollout", "memory/peak_gb"} <= set(logs_of(run)[0])
    said = capsys.readouterr().out
    assert "machine     " in said and "MFU" in said
