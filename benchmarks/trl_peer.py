"""TRL's GRPOTrainer as a contestant, with the settings that serve it best at equal work."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.channel import Control
from benchmarks.gradient import save_trl_gradient
from benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from benchmarks.ours import clock, heldout_accuracy
from benchmarks.settings import Settings
from benchmarks.task import FORCED_END, columns_of, model_path, problems_in_order, recipe_of

OWN_OPTIONS = {"micro_batches", "compile", "gradient_path", "model_dtype"}


def run(control: Control, settings: Settings, folder: Path, options: dict[str, Any]) -> None:
    """Prepare, then let the trainer go from step to step as commands come.

    Options are fields of GRPOConfig, and: micro_batches (of one optimizer step), compile (of generate; TRL switches it
    off), gradient_path (where to write a batch with its gradient before the first step), model_dtype (of the weights
    themselves; float32 else).
    """
    trainer, imported, seconds = build_trainer(settings, folder, options)
    if options.get("gradient_path"):
        rows = [trainer.train_dataset[i] for i in range(settings.prompts_per_step) for _ in range(settings.group_size)]
        save_trl_gradient(trainer, rows, Path(options["gradient_path"]))
    meter = Meter(trainer, settings)
    reset_peak(settings.device)
    control.reply(ready=True, imported_bytes=imported, prepare_s=seconds, note="")
    trainer.add_callback(stepping(control, meter, lambda: accuracy_of(trainer, settings, folder)))
    trainer.train()


def build_trainer(settings: Settings, folder: Path, options: dict[str, Any]) -> tuple[Any, int, float]:
    """Return the trainer, the memory of this process before it had a model, and the seconds it took."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_trainer import GRPOTrainer

    from mathgrpo.formats import get_format
    from mathgrpo.formats.chat import prompt_messages
    from mathgrpo.models.locate import locate_model
    from mathgrpo.problems import load_problem_sets
    from mathgrpo.rewards import build_suite

    imported, started = resident_bytes(), time.perf_counter()
    recipe = recipe_of(settings, folder)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    fmt = get_format(recipe.format.name)
    problems = problems_in_order(load_problem_sets(recipe.problems).train, settings)
    rows = [{"prompt": prompt_messages(row["question"], fmt)} | row for row in columns_of(problems)]
    location = locate_model(model_path(settings, folder))
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            location, dtype=getattr(torch, options.get("model_dtype", "float32"))
        ),
        reward_funcs=shared_reward(
            build_suite(recipe.rewards, fmt, recipe.reward_settings, recipe.rollout.max_new_tokens)
        ),
        args=grpo_config(settings, folder, options),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(location),
    )
    if settings.mode == "forced":
        never_end(trainer)
    if options.get("compile"):
        trainer.generation_config.disable_compile = False
    return trainer, imported, time.perf_counter() - started


def grpo_config(settings: Settings, folder: Path, options: dict[str, Any]) -> Any:
    """Return TRL's configuration: the same mathematics as the recipe, and nothing slow that the task does not need."""
    from trl.trainer.grpo_config import GRPOConfig

    micro_batches = min(options.get("micro_batches", 1), settings.completions)
    extra = {key: value for key, value in options.items() if key not in OWN_OPTIONS}
    if options.get("use_transformers_continuous_batching") and settings.device == "cpu":
        extra["transformers_continuous_batching_config"] = paged_cache(settings)
    return GRPOConfig(
        output_dir=str(folder / "trl"), seed=settings.seed, max_steps=settings.num_steps,
        per_device_train_batch_size=settings.completions // micro_batches, gradient_accumulation_steps=micro_batches,
        num_generations=settings.group_size, max_completion_length=settings.max_new_tokens, shuffle_dataset=False,
        temperature=1.0, top_p=1.0, top_k=0, beta=0.0, epsilon=0.2, loss_type="dapo",
        scale_rewards=settings.advantage_scale,
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps, max_grad_norm=settings.max_grad_norm, weight_decay=0.0,
        adam_beta1=0.9, adam_beta2=0.99, optim="adamw_torch_fused", bf16=settings.dtype == "bfloat16", fp16=False,
        gradient_checkpointing=False, use_cpu=settings.device == "cpu", report_to="none", save_strategy="no",
        eval_strategy="no", logging_steps=10_000, disable_tqdm=True, dataloader_pin_memory=False,
        **extra,
    )  # fmt: skip


def paged_cache(settings: Settings) -> dict[str, int]:
    """Return a paged cache that holds every row of a step at its longest, with 256 tokens for its prompt.

    Left to itself, continuous batching on a CPU takes most of the free memory for pages that it never fills.
    """
    page = 32
    blocks = settings.completions * -(-(256 + settings.max_new_tokens) // page)
    return {"page_size": page, "num_blocks": blocks, "max_batch_tokens": 1024}


def shared_reward(suite: Any) -> Callable[..., list[float | None]]:
    """Return this project's reward suite as TRL's reward function: both sides pay the same for rewards."""

    def reward(
        prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any
    ) -> list[float | None]:
        texts = [completion[-1]["content"] for completion in completions]
        known = {name: columns[name] for name in ("question", "answer")}
        return list(suite.score(prompts, texts, known, completion_ids=completion_ids).totals)

    return reward


def accuracy_of(trainer: Any, settings: Settings, folder: Path) -> float:
    """Return the held-out accuracy of the trainer's model as it is, sampled and graded by this project."""
    from mathgrpo.models.load_policy import policy_from
    from mathgrpo.problems import load_problem_sets
    from mathgrpo.rollout import build_engine

    policy = policy_from(
        trainer.model, trainer.processing_class, device=settings.device,
        dtype=next(trainer.model.parameters()).dtype, name="trl",
    )  # fmt: skip
    heldout = load_problem_sets(recipe_of(settings, folder).problems).heldout
    return heldout_accuracy(build_engine(policy), policy, heldout, settings)


def never_end(trainer: Any) -> None:
    """Give every generation path an end id that no model has."""
    trainer.eos_token_ids = [FORCED_END]
    trainer.generation_kwargs["eos_token_id"] = [FORCED_END]
    trainer.generation_config.eos_token_id = [FORCED_END]
    trainer.model.generation_config.eos_token_id = [FORCED_END]


class Meter:
    """Times parts of TRL's step by wrapping its own methods.

    Rollout is `_generate` (tokenising, sampling, decoding) and reward `_calculate_rewards`; all else, from fetching the
    problems to zeroing the gradients, is the update's.
    """

    def __init__(self, trainer: Any, settings: Settings) -> None:
        self._device = settings.device
        self._group_size = settings.group_size
        self._started = self._rollout = self._reward = 0.0
        self._lengths: list[int] = []
        self._prompt_tokens = 0
        generate, calculate = trainer._generate, trainer._calculate_rewards

        def timed_generate(*args: Any, **kwargs: Any) -> Any:
            begun = clock(self._device)
            result = generate(*args, **kwargs)
            self._rollout += clock(self._device) - begun
            self._lengths = [len(ids) for ids in result[1]]
            self._prompt_tokens = sum(len(ids) for ids in result[0]) // self._group_size
            return result

        def timed_rewards(*args: Any, **kwargs: Any) -> Any:
            begun = clock(self._device)
            result = calculate(*args, **kwargs)
            self._reward += clock(self._device) - begun
            return result

        trainer._generate, trainer._calculate_rewards = timed_generate, timed_rewards

    def begin(self) -> None:
        """Begin a step."""
        self._rollout = self._reward = 0.0
        self._started = clock(self._device)

    def end(self, index: int) -> dict[str, Any]:
        """Return the measurements of the step that ends now."""
        seconds = clock(self._device) - self._started
        return {
            "step": index, "seconds": seconds, "rollout_s": self._rollout, "reward_s": self._reward,
            "tokens": sum(self._lengths), "longest": max(self._lengths), "prompt_tokens": self._prompt_tokens,
            "peak_bytes": peak_bytes(self._device), "resident_bytes": resident_bytes(), "logprob_difference": None,
        }  # fmt: skip


def stepping(control: Control, meter: Meter, evaluate: Callable[[], float]) -> Any:
    """Return a trainer callback that waits for a command before each step and answers after it.

    A step is all from the command to the end of the optimizer step, with the trainer's own logging between steps.
    """
    from transformers import TrainerCallback

    def wait() -> None:
        while (command := control.next()) is not None:
            if command["do"] != "evaluate":
                meter.begin()
                return
            control.reply(accuracy=evaluate())
        raise SystemExit(0)

    class Stepping(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            wait()

        def on_step_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
            control.reply(**meter.end(state.global_step - 1))
            wait()

    return Stepping()
