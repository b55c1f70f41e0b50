"""Settings, rows and reward functions that the tests of mathgrpo.trl_api share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes import tiny_model, tiny_tokenizer
from mathgrpo import GRPOConfig, GRPOTrainer

ROWS: list[dict[str, Any]] = [
    {"prompt": [{"role": "user", "content": f"{i} + 1 = "}], "answer": str(i + 1), "level": i % 3} for i in range(12)
]
PLAIN_ROWS: list[dict[str, Any]] = [{"prompt": f"{i} + 1 = ", "answer": i + 1} for i in range(12)]


def length_reward(completions: list[Any], **_: Any) -> list[float]:
    """Pay something that differs between completions of random models."""
    return [float(len(_text(completion)) + sum(map(ord, _text(completion))) % 7) for completion in completions]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[0]["content"])


def config(folder: Path, **overrides: Any) -> GRPOConfig:
    """Return settings of a run of a second."""
    defaults: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "num_generations": 4, "max_completion_length": 8, "max_steps": 4, "logging_steps": 1, "learning_rate": 1e-3,
        "disable_tqdm": True, "save_strategy": "no", "use_cpu": True,
    }  # fmt: skip
    return GRPOConfig(**(defaults | overrides))


def trainer(folder: Path, *, model: Any = None, reward_funcs: Any = length_reward, **options: Any) -> GRPOTrainer:
    """Return a trainer of a tiny model; `options` are GRPOTrainer's arguments, others GRPOConfig's."""
    names = ("train_dataset", "eval_dataset", "callbacks", "optimizers", "peft_config", "quantization_config")
    arguments = {name: options.pop(name) for name in names if name in options}
    arguments.setdefault("train_dataset", ROWS)
    return GRPOTrainer(
        model=tiny_model() if model is None else model, reward_funcs=reward_funcs, args=config(folder, **options),
        processing_class=tiny_tokenizer(), **arguments,
    )  # fmt: skip


def logs_of(run: GRPOTrainer) -> list[dict[str, Any]]:
    """Return the step logs of a run, without the last line about the whole run."""
    return [line for line in run.state.log_history if "loss" in line]
