"""Steps of this GRPOTrainer against steps of TRL's real one, on the same completions: the weights agree after them."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import mathgrpo
from fakes import tiny_model, tiny_tokenizer
from mathgrpo import GRPOConfig, GRPOTrainer
from mathgrpo.rollout.engine import Engine
from mathgrpo.types import Completion, Prompt, Sampling

GROUP_SIZE, LENGTH, STEPS = 4, 9, 3
ROWS = [{"prompt": f"{i} + {i * i} = ", "answer": i} for i in range(10)]
SHARED: dict[str, Any] = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": GROUP_SIZE,
    "max_completion_length": LENGTH, "max_steps": STEPS, "learning_rate": 5e-3, "weight_decay": 0.1, "adam_beta2": 0.99,
    "adam_epsilon": 1e-3, "max_grad_norm": 0.3, "lr_scheduler_type": "cosine", "warmup_steps": 1, "temperature": 0.8,
    "logging_steps": 1, "report_to": "none", "bf16": False, "use_cpu": True, "save_strategy": "no", "beta": 0.05,
    "gradient_checkpointing": False, "disable_tqdm": True, "seed": 3,
}  # fmt: skip


def made_up(prompt_ids: Sequence[int], sample: int) -> list[int]:
    """Return a completion that only prompt and sample number decide; one in four is cut at the limit."""
    digest = hashlib.sha256(f"{list(prompt_ids)}/{sample}".encode()).digest()
    truncated = digest[0] % 4 == 0
    length = LENGTH if truncated else 1 + digest[1] % (LENGTH - 1)
    body = [6 + byte % 84 for byte in digest[2 : 2 + length]]
    return body if truncated else [*body[:-1], 1]


def reward(completions: list[str], answer: list[int], **_: Any) -> list[float]:
    return [(len(text) * 7 + sum(map(ord, text)) + a) % 5 / 2.0 for text, a in zip(completions, answer, strict=True)]


def second_reward(completions: list[str], **_: Any) -> list[float | None]:
    return [None if len(text) % 3 == 0 else 0.25 * (len(text) % 2) for text in completions]


class MadeUp(Engine):
    """An engine that gives made_up completions, with the model's log-probabilities of them."""

    name, reason = "made up", "for this test"

    def __init__(self, model: Any) -> None:
        self._model = model

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        rows = []
        for prompt in prompts:
            ids = [tuple(made_up(prompt.ids, g)) for g in range(group_size)]
            logprobs = [self._logprobs(prompt.ids, i, sampling.temperature or 1.0) for i in ids]
            rows.append(
                [Completion(i, p, "eos" if i[-1] == 1 else "length") for i, p in zip(ids, logprobs, strict=True)]
            )
        return rows

    @torch.no_grad()
    def _logprobs(self, prompt: Sequence[int], ids: Sequence[int], temperature: float) -> tuple[float, ...]:
        logits = self._model(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        every = torch.log_softmax(logits.float() / temperature, -1)
        return tuple(every.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist())


def _theirs(folder: Path, overrides: dict[str, Any], model: Any = None) -> Any:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    tokenizer = tiny_tokenizer()
    tiny_model(seed=0).save_pretrained(folder / "model")  # TRL loads its reference by name

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        prompt_ids = [tokenizer(text=prompt)["input_ids"] for prompt in prompts]
        completion_ids = [made_up(ids, i % GROUP_SIZE) for i, ids in enumerate(prompt_ids)]
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    trainer = trl.GRPOTrainer(
        model=model or str(folder / "model"), args=trl.GRPOConfig(str(folder), **(SHARED | overrides)),
        processing_class=tokenizer,
        reward_funcs=[reward, second_reward], train_dataset=Dataset.from_list(ROWS), rollout_func=rollout,
    )  # fmt: skip
    trainer.train()
    return trainer


def _ours(folder: Path, overrides: dict[str, Any], model: Any = None) -> GRPOTrainer:
    trainer = GRPOTrainer(
        model=model or tiny_model(seed=0), args=GRPOConfig(str(folder), **(SHARED | overrides)),
        processing_class=tiny_tokenizer(),
        reward_funcs=[reward, second_reward], train_dataset=ROWS,
    )  # fmt: skip
    trainer.engine = MadeUp(trainer.model)
    trainer.train()
    return trainer


def require_same_weights(theirs: Any, ours: GRPOTrainer) -> None:
    """Both moved the weights, and to the same place."""
    start = dict(tiny_model(seed=0).named_parameters())
    expected = {name: p.detach() - start[name].detach() for name, p in theirs.model.named_parameters()}
    largest = max(float(moved.abs().max()) for moved in expected.values())
    assert largest > 1e-3, "the steps must move the weights for this test to mean anything"
    for name, parameter in ours.model.named_parameters():
        moved = parameter.detach() - start[name].detach()
        assert float((moved - expected[name]).abs().max()) < 1e-3 * largest, name


@pytest.mark.parametrize(
    "overrides",
    [
        {}, {"loss_type": "grpo", "scale_rewards": "none"}, {"loss_type": "dr_grpo", "scale_rewards": "batch"},
        {"mask_truncated_completions": True, "reward_weights": [1.0, 2.0]},
        {"multi_objective_aggregation": "normalize_then_sum"}, {"num_iterations": 3, "epsilon_high": 0.28},
    ],
    ids=["dapo", "grpo", "dr_grpo", "masked", "gdpo", "three updates"],
)  # fmt: skip
def test_weights_after_three_steps_equal_those_of_trl(tmp_path: Path, overrides: dict[str, Any]) -> None:
    theirs, ours = _theirs(tmp_path / "trl", overrides), _ours(tmp_path / "ours", overrides)
    require_same_weights(theirs, ours)
    assert ours.state.global_step == theirs.state.global_step == STEPS


GSPO = {"importance_sampling_level": "sequence", "beta": 0.0, "epsilon": 0.02, "epsilon_high": 0.03}


@pytest.mark.parametrize(
    "overrides",
    [
        {"steps_per_generation": 4}, {"steps_per_generation": 4, "num_iterations": 2, "loss_type": "grpo"},
        {"steps_per_generation": 4, "loss_type": "dr_grpo", "max_steps": 5, "scale_rewards": "batch"},
        {"generation_batch_size": 16, "mask_truncated_completions": True},
        {"steps_per_generation": 1, "loss_type": "grpo"},
        {"steps_per_generation": 4, "num_iterations": 2, "loss_type": "grpo", "max_steps": 8, **GSPO},
        {"num_iterations": 3, "loss_type": "dapo", "max_steps": 6, **GSPO},
        {"loss_type": "grpo", **GSPO},
        {"steps_per_generation": 1, "loss_type": "dr_grpo", "scale_rewards": "batch"},
        {"steps_per_generation": 4, "num_iterations": 2, "loss_type": "grpo", "max_steps": 8, **GSPO, "beta": 0.2},
        {"num_iterations": 2, "loss_type": "cispo", "epsilon_high": 1.2, "beta": 0.0},
        {"steps_per_generation": 4, "loss_type": "sapo", "sapo_temperature_neg": 2.0},
        {"num_iterations": 2, "delta": 1.5, "epsilon": 0.1},
    ],
    ids=[
        "two parts", "two parts twice", "batch", "by size", "two generations", "gspo, two parts twice", "gspo, dapo",
        "gspo, one step", "two generations, batch",
        "gspo with KL", "cispo", "sapo", "two-sided",
    ],
)  # fmt: skip
def test_weights_of_divided_and_of_joined_generations_equal_those_of_trl(
    tmp_path: Path, overrides: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL shuffles the completions of a generation before it divides them; here both keep their order."""
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    monkeypatch.setattr(grpo_trainer, "shuffle_sequence_dict", lambda rows: rows)
    monkeypatch.setattr(
        "mathgrpo.trl_api.script_task.completion_order", lambda groups, seed: list(range(GROUP_SIZE * len(groups)))
    )
    theirs, ours = _theirs(tmp_path / "trl", overrides), _ours(tmp_path / "ours", overrides)
    require_same_weights(theirs, ours)
    assert ours.state.global_step == theirs.state.global_step == overrides.get("max_steps", STEPS)
    if "importance_sampling_level" in overrides and overrides.get("num_iterations", 1) > 1:
        held = [line["clip_ratio/region_mean"] for line in ours.state.log_history if "loss" in line]
        assert max(held) > 0.0, "some completions must be held back for this test to mean anything"


def adapted(*, trained: bool) -> Any:
    """A tiny model with an adapter, which changes something already if it is trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    model = get_peft_model(tiny_model(seed=0), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if trained and "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
def test_an_adapter_after_three_steps_equals_that_of_trl(tmp_path: Path, trained: bool) -> None:
    """The KL term's reference is the model without a fresh adapter, and with a trained one as it came."""
    overrides = {"num_iterations": 2, "max_steps": 6, "beta": 0.2}
    theirs = _theirs(tmp_path / "trl", overrides, adapted(trained=trained))
    ours = _ours(tmp_path / "ours", overrides, adapted(trained=trained))
    start = dict(adapted(trained=trained).named_parameters())
    after = dict(theirs.model.named_parameters())
    changes = {n: p.detach() - start[n].detach() for n, p in ours.model.named_parameters() if "lora_" in n}
    largest = max(float(change.abs().max()) for change in changes.values())
    assert largest > 1e-3 and len(changes) == 8
    for name, change in changes.items():
        assert float((change - (after[name].detach() - start[name].detach())).abs().max()) < 1e-3 * largest, name


def test_logs_equal_those_of_trl(tmp_path: Path) -> None:
    theirs, ours = _theirs(tmp_path / "trl", {}), _ours(tmp_path / "ours", {})
    their_logs = [line for line in theirs.state.log_history if "loss" in line]
    our_logs = [line for line in ours.state.log_history if "loss" in line]
    compared = set(their_logs[0]) & set(our_logs[0]) - {"step_time", "entropy", "kl"}
    important = {
        "loss", "grad_norm", "learning_rate", "reward", "reward_std", "frac_reward_zero_std", "num_tokens", "epoch",
        "rewards/reward/mean", "rewards/second_reward/std", "completions/mean_terminated_length",
    }  # fmt: skip
    assert important <= compared
    for line, expected in zip(our_logs, their_logs, strict=True):
        for name in compared:
            assert line[name] == pytest.approx(expected[name], rel=2e-4, abs=1e-5), name
    missing = set(their_logs[0]) - set(our_logs[0])
    assert missing <= {"clip_ratio/low_min", "clip_ratio/high_max"}, missing


EVENTS = (
    "init_end", "train_begin", "epoch_begin", "step_begin", "pre_optimizer_step", "optimizer_step", "step_end",
    "evaluate", "save", "log", "epoch_end", "train_end",
)  # fmt: skip


def recorder() -> tuple[Any, list[tuple[str, int, float]], dict[str, set[str]]]:
    """Return a callback, the events it has seen with step and epoch, and the keywords of each event."""
    from transformers import TrainerCallback

    events: list[tuple[str, int, float]] = []
    keywords: dict[str, set[str]] = {}

    def note(name: str, args: Any, state: Any, control: Any, **given: Any) -> None:
        events.append((name, state.global_step, float(state.epoch or 0.0)))
        keywords.setdefault(name, set(given))

    callback = TrainerCallback()
    for name in EVENTS:
        setattr(callback, f"on_{name}", functools.partial(note, name))
    return callback, events, keywords


def test_callbacks_logs_files_and_results_are_those_of_trl(tmp_path: Path) -> None:
    """Six steps past an epoch, with evaluations and checkpoints: the same events in one order."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    tiny_model(seed=0).save_pretrained(tmp_path / "model")
    seen: dict[str, Any] = {}
    for name, module in (("theirs", trl), ("ours", mathgrpo)):
        callback, events, keywords = recorder()
        args = module.GRPOConfig(
            str(tmp_path / name), **(SHARED | {"save_strategy": "steps", "max_steps": 6, "logging_steps": 2}),
            save_steps=3, save_total_limit=1, eval_strategy="steps", eval_steps=4,
            per_device_eval_batch_size=4, eval_on_start=True, logging_first_step=True,
        )  # fmt: skip
        run = module.GRPOTrainer(
            model=str(tmp_path / "model"), reward_funcs=[reward, second_reward], args=args,
            train_dataset=Dataset.from_list(ROWS), eval_dataset=Dataset.from_list(ROWS[:2]),
            processing_class=tiny_tokenizer(), callbacks=[callback],
        )  # fmt: skip
        output = run.train()
        seen[name] = (run, output, events, keywords)
    (theirs, their_output, their_events, their_keywords), (ours, output, events, keywords) = seen.values()
    assert events == their_events
    assert keywords == their_keywords
    assert set(output.metrics) == set(their_output.metrics) and output.global_step == their_output.global_step == 6
    pairs = list(zip(ours.state.log_history, theirs.state.log_history, strict=True))
    for line, expected in pairs:
        missing = {key for key in set(expected) - set(line) if not key.startswith("eval_")}
        assert missing <= {"clip_ratio/low_min", "clip_ratio/high_max"}
        unlogged = {key.split("/")[0] for key in set(expected) - set(line) if key.startswith("eval_")}
        assert unlogged <= {"eval_loss", "eval_num_tokens", "eval_entropy", "eval_kl", "eval_clip_ratio"}
    for name in ("max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps", "epoch", "global_step"):
        assert getattr(ours.state, name) == getattr(theirs.state, name), name
    model_files = {"config.json", "model.safetensors", "tokenizer.json", "trainer_state.json", "generation_config.json"}
    for name in ("theirs", "ours"):
        (checkpoint,) = (tmp_path / name).glob("checkpoint-*")
        assert checkpoint.name == "checkpoint-6" and model_files <= {path.name for path in checkpoint.iterdir()}
