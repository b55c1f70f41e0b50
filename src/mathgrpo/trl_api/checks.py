"""Settings that cannot work, found before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mathgrpo.errors import UserError
from mathgrpo.grpo.objectives import OBJECTIVES, SETTINGS

if TYPE_CHECKING:
    from mathgrpo.trl_api.grpo_config import GRPOConfig

_STRATEGIES = ("steps", "epoch", "no")
_CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "loss_type": (
        tuple(name for name in OBJECTIVES if name != "gspo"),
        "GSPO is grpo with importance_sampling_level='sequence'",
    ),
    "optim": (
        ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit",
         "paged_adamw_32bit", "paged_adamw"),
        "for another one pass optimizers=(optimizer, None) to the trainer",
    ),
    "lr_scheduler_type": (
        ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
         "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"),
        "for another one pass optimizers=(optimizer, scheduler) to the trainer",
    ),
    "importance_sampling_level": (("token", "sequence"), "as in TRL"),
    "scale_rewards": (("group", "none", "batch"), "or True and False"),
    "multi_objective_aggregation": (("sum_then_normalize", "normalize_then_sum"), "as in TRL"),
    "logging_strategy": (_STRATEGIES, "as in transformers"),
    "eval_strategy": (_STRATEGIES, "as in transformers"),
    "save_strategy": (_STRATEGIES, '"best" is not served, load_best_model_at_end is'),
    "vllm_mode": (("server", "colocate"), "as in TRL"),
    "vllm_model_impl": (("vllm", "transformers"), "as in TRL"),
    "vllm_importance_sampling_mode": (
        ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate"), "as in TRL",
    ),
    "hub_strategy": (("every_save", "end"), "the optimizer's state is never uploaded"),
}  # fmt: skip
TRACKERS = ("trackio", "wandb", "tensorboard")
_AT_LEAST: dict[str, float] = {
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "num_generations": 2, "num_generations_eval": 1, "num_iterations": 1, "max_prompt_length": 1,
    "max_completion_length": 1, "learning_rate": 0, "warmup_steps": 0, "weight_decay": 0, "max_grad_norm": 0,
    "beta": 0, "adam_epsilon": 0, "seed": 0, "save_total_limit": 1, "vllm_tensor_parallel_size": 1,
    "vllm_server_timeout": 0, "vllm_max_model_length": 1,
}  # fmt: skip
_WHOLE = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "steps_per_generation",
    "generation_batch_size", "num_generations", "num_generations_eval", "num_iterations", "max_prompt_length",
    "max_completion_length", "max_steps", "seed",
)  # fmt: skip
_BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epsilon": (lambda x: 0 < x < math.inf, "above 0; TRL's default is 0.2"),
    "epsilon_high": (lambda x: x > 0, "above 0; DAPO uses 0.28"),
    "warmup_ratio": (lambda x: 0 <= x < 1, "from 0 up to, but not including, 1"),
    "reward_weights": (lambda x: all(map(math.isfinite, x)), "a finite number for each function"),
    "temperature": (lambda x: 0 < x <= 5, "above 0 and at most 5; TRL's default is 1"),
    "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1; 1 keeps every token"),
    "top_k": (lambda x: x >= 0, "0 (off) or more"),
    "min_p": (lambda x: 0 <= x < 1, "from 0 (off) up to, but not including, 1"),
    "vllm_gpu_memory_utilization": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "vllm_importance_sampling_clip_min": (lambda x: 0 < x < math.inf, "above 0, or None for no bound"),
    "vllm_importance_sampling_clip_max": (lambda x: x is None or 0 < x < math.inf, "above 0, or None for no bound"),
}
"""Field -> what it must fulfil, and that in words. None is allowed where it is the default."""


def check_config(config: GRPOConfig) -> None:
    """Return when the settings can work.

    Raises: UserError naming field, value, what is allowed and the remedy.
    """
    for name, (allowed, remark) in _CHOICES.items():
        value = getattr(config, name)
        if value not in allowed:
            raise UserError(f"{name}={value!r}: use one of {', '.join(allowed)}; {remark}")
    for name, least in _AT_LEAST.items():
        hint = "; with fewer than 2 every advantage would be 0" if name == "num_generations" else ""
        _require(config, name, _at_least(least), f"a number of at least {least:g}{hint}")
    for name in _WHOLE:
        _require(config, name, lambda x: x == int(x), "a whole number")
    for name, (fits, words) in _BOUNDS.items():
        _require(config, name, fits, words)
    for name in [name for name in SETTINGS if hasattr(config, name)]:
        _require(config, name, SETTINGS[name].fits, f"{SETTINGS[name].allowed} ({SETTINGS[name].meaning})")
    if config.max_steps <= 0:
        _require(config, "num_train_epochs", lambda x: x > 0, "above 0, or set max_steps")
    unknown = [name for name in config.report_to or [] if name not in (*TRACKERS, "all")]
    if unknown:
        raise UserError(f"report_to={unknown[0]!r}: use one of {', '.join(TRACKERS)}, all, or none")
    _check_intervals(config)
    _check_best(config)
    _check_batch(config)
    _check_vllm(config)


def _require(config: GRPOConfig, name: str, fits: Callable[[Any], bool], words: str) -> None:
    value = getattr(config, name)
    if value is None and getattr(type(config), name) is None:
        return
    try:
        fine = fits(value)
    except (TypeError, ValueError, OverflowError):  # no number at all
        fine = False
    if not fine:
        raise UserError(f"{name}={value!r}: must be {words}")


def _at_least(least: float) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int | float) and not isinstance(x, bool) and least <= x < math.inf


def _check_intervals(config: GRPOConfig) -> None:
    for what in ("logging", "eval"):
        steps, strategy = getattr(config, f"{what}_steps"), getattr(config, f"{what}_strategy")
        if strategy == "steps" and not steps > 0:
            raise UserError(f'{what}_steps={steps}: must be above 0; use {what}_strategy="no" for never')


def _check_best(config: GRPOConfig) -> None:
    if not config.load_best_model_at_end:
        return
    metric = config.metric_for_best_model
    if metric is None or metric.removeprefix("eval_") == "loss":
        raise UserError(
            f"metric_for_best_model={metric!r}: load_best_model_at_end needs one that evaluations have, such as "
            '"eval_reward"'
        )
    if config.eval_strategy != config.save_strategy or config.eval_strategy == "no":
        raise UserError(
            f"load_best_model_at_end=True: eval_strategy={config.eval_strategy!r} and save_strategy="
            f'{config.save_strategy!r} must be the same, "steps" or "epoch"'
        )
    if config.eval_strategy == "steps" and config.save_steps % (config.eval_steps or 1):
        raise UserError(
            f"save_steps={config.save_steps:g}: must be a multiple of eval_steps={config.eval_steps:g} for "
            "load_best_model_at_end, so that every checkpoint has an evaluation"
        )


def _check_batch(config: GRPOConfig) -> None:
    size, generations = config.generation_batch_size or 0, config.num_generations
    per_generation, micro_steps = config.steps_per_generation or 0, config.gradient_accumulation_steps
    if size != per_generation * config.per_device_train_batch_size * config.world_size or per_generation < 1:
        raise UserError(
            f"generation_batch_size={size}: must be steps_per_generation={per_generation} times "
            f"per_device_train_batch_size={config.per_device_train_batch_size}; set one of the first two only"
        )
    several = micro_steps % per_generation == 0 and (micro_steps == per_generation or config.num_iterations == 1)
    if per_generation % micro_steps and not several:
        raise UserError(
            f"steps_per_generation={per_generation} (generation_batch_size={size}): must be a multiple of "
            f"gradient_accumulation_steps={micro_steps}, or with num_iterations=1 divide it; change one of the three"
        )
    if size % generations:
        raise UserError(
            f"num_generations={generations}: does not divide the {size} completions of a generation "
            f"(per_device_train_batch_size={config.per_device_train_batch_size} x steps_per_generation="
            f"{per_generation}); change one of the three"
        )


def _check_vllm(config: GRPOConfig) -> None:
    is_named = config.vllm_server_base_url or config.vllm_server_host
    if config.use_vllm and config.vllm_mode == "server" and not is_named:
        raise UserError("vllm_server_host='': name the host of the server, or give vllm_server_base_url")
    if not config.vllm_importance_sampling_correction:
        return
    low, high = config.vllm_importance_sampling_clip_min, config.vllm_importance_sampling_clip_max
    mode = config.vllm_importance_sampling_mode
    if mode.endswith("truncate") and low is None and high is None:
        raise UserError(
            f"vllm_importance_sampling_mode={mode!r}: give vllm_importance_sampling_clip_min or "
            "vllm_importance_sampling_clip_max, without both nothing is truncated"
        )
    if low is not None and high is not None and low >= high:
        raise UserError(
            f"vllm_importance_sampling_clip_min={low}: must be below vllm_importance_sampling_clip_max={high}"
        )
