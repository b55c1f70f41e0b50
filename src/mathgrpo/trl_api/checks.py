"""Settings that cannot work, found before anything is loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mathgrpo.errors import UserError
from mathgrpo.grpo.objectives import OBJECTIVES, SETTINGS

if TYPE_CHECKING:
    from mathgrpo.trl_api.grpo_config import GRPOConfig

LOSSES = tuple(name for name in OBJECTIVES if name != "gspo")
OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit",
    "paged_adamw_32bit", "paged_adamw",
)  # fmt: skip
SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
)  # fmt: skip
TRACKERS = ("trackio", "wandb", "tensorboard", "all")
IMPORTANCE_MODES = ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate")

_CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "loss_type": (LOSSES, "GSPO is grpo with importance_sampling_level='sequence'"),
    "optim": (OPTIMIZERS, "for another one pass optimizers=(optimizer, None) to the trainer"),
    "lr_scheduler_type": (SCHEDULES, "for another one pass optimizers=(optimizer, scheduler) to the trainer"),
    "importance_sampling_level": (("token", "sequence"), "as in TRL"),
    "scale_rewards": (("group", "none", "batch"), "or True and False"),
    "multi_objective_aggregation": (("sum_then_normalize", "normalize_then_sum"), "as in TRL"),
    "logging_strategy": (("steps", "epoch", "no"), "as in transformers"),
    "eval_strategy": (("steps", "epoch", "no"), "as in transformers"),
    "save_strategy": (("steps", "epoch", "no"), '"best" is not served, load_best_model_at_end is'),
    "vllm_mode": (("server", "colocate"), "as in TRL"),
    "vllm_model_impl": (("vllm", "transformers"), "as in TRL"),
    "hub_strategy": (("every_save", "end"), "the optimizer's state is never uploaded"),
}
_AT_LEAST: dict[str, float] = {
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "num_generations": 2, "num_iterations": 1, "max_completion_length": 1, "learning_rate": 0.0, "warmup_steps": 0,
    "weight_decay": 0.0, "max_grad_norm": 0.0, "beta": 0.0, "adam_epsilon": 0.0, "seed": 0,
    "vllm_tensor_parallel_size": 1, "vllm_server_timeout": 0.0,
}  # fmt: skip

_WHOLE = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "steps_per_generation",
    "generation_batch_size", "num_generations", "num_generations_eval", "num_iterations", "max_prompt_length",
    "max_completion_length", "max_steps", "seed",
)  # fmt: skip


def check_config(config: GRPOConfig) -> None:
    """Return when the settings can work.

    Raises: UserError naming field, value, what is allowed and the remedy.
    """
    for name, (allowed, remark) in _CHOICES.items():
        value = getattr(config, name)
        if value not in allowed:
            raise UserError(f"{name}={value!r}: use one of {', '.join(allowed)}; {remark}")
    for name, least in _AT_LEAST.items():
        _require_number(name, getattr(config, name), least)
    for name in _WHOLE:
        if getattr(config, name) is not None and getattr(config, name) != int(getattr(config, name)):
            raise UserError(f"{name}={getattr(config, name)!r}: must be a whole number")
    _check_optional(config)
    _check_intervals(config)
    _check_best(config)
    _check_batch(config)
    _check_sampling(config)
    if config.use_vllm:
        _check_vllm(config)
    if not (math.isfinite(config.epsilon) and config.epsilon > 0.0):
        raise UserError(f"epsilon={config.epsilon}: must be above 0; TRL's default is 0.2")
    for name in ("delta", "sapo_temperature_pos", "sapo_temperature_neg", "entropy_coef"):
        value = getattr(config, name)
        if value is not None and not SETTINGS[name].fits(value):
            raise UserError(f"{name}={value}: must be {SETTINGS[name].allowed} ({SETTINGS[name].meaning})")
    unknown = [name for name in config.report_to or [] if name not in TRACKERS]
    if unknown:
        raise UserError(f"report_to={unknown[0]!r}: use one of {', '.join(TRACKERS)}, or none")


def _require_number(name: str, value: Any, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        hint = "; with fewer than 2 every advantage would be 0" if name == "num_generations" else ""
        raise UserError(f"{name}={value!r}: must be a number of at least {least:g}{hint}")


def _check_optional(config: GRPOConfig) -> None:
    for name, least in (("max_prompt_length", 1), ("num_generations_eval", 1), ("save_total_limit", 1)):
        if getattr(config, name) is not None:
            _require_number(name, getattr(config, name), least)
    if config.max_steps <= 0 and not config.num_train_epochs > 0:
        raise UserError(f"num_train_epochs={config.num_train_epochs}: must be above 0, or set max_steps")
    if config.warmup_ratio is not None and not 0.0 <= config.warmup_ratio < 1.0:
        raise UserError(f"warmup_ratio={config.warmup_ratio}: must be from 0 up to, but not including, 1")
    if config.epsilon_high is not None and config.epsilon_high <= 0:
        raise UserError(f"epsilon_high={config.epsilon_high}: must be above 0; DAPO uses 0.28")
    if config.reward_weights is not None and not all(math.isfinite(weight) for weight in config.reward_weights):
        raise UserError(f"reward_weights={config.reward_weights}: every weight must be a finite number")


def _check_intervals(config: GRPOConfig) -> None:
    for what in ("logging", "eval"):
        steps, strategy = getattr(config, f"{what}_steps"), getattr(config, f"{what}_strategy")
        if strategy == "steps" and not steps > 0:
            raise UserError(f'{what}_steps={steps}: must be above 0; use {what}_strategy="no" for never')


def _check_best(config: GRPOConfig) -> None:
    if not config.load_best_model_at_end:
        return
    if config.metric_for_best_model is None or config.metric_for_best_model.removeprefix("eval_") == "loss":
        raise UserError(
            f"metric_for_best_model={config.metric_for_best_model!r}: load_best_model_at_end needs one that "
            'evaluations have, such as "eval_reward"'
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


def _check_sampling(config: GRPOConfig) -> None:
    if not 0.0 < config.temperature <= 5.0:
        raise UserError(f"temperature={config.temperature}: must be above 0 and at most 5; TRL's default is 1")
    if not 0.0 < config.top_p <= 1.0:
        raise UserError(f"top_p={config.top_p}: must be above 0 and at most 1; 1 keeps every token")
    if config.top_k is not None and config.top_k < 0:
        raise UserError(f"top_k={config.top_k}: must be 0 (off) or more")
    if config.min_p is not None and not 0.0 <= config.min_p < 1.0:
        raise UserError(f"min_p={config.min_p}: must be from 0 (off) up to, but not including, 1")


def _check_vllm(config: GRPOConfig) -> None:
    if not 0.0 < config.vllm_gpu_memory_utilization <= 1.0:
        raise UserError(
            f"vllm_gpu_memory_utilization={config.vllm_gpu_memory_utilization}: must be above 0 and at most 1"
        )
    if config.vllm_max_model_length is not None:
        _require_number("vllm_max_model_length", config.vllm_max_model_length, 1)
    if config.vllm_mode == "server" and not (config.vllm_server_base_url or config.vllm_server_host):
        raise UserError("vllm_server_host='': name the host of the server, or give vllm_server_base_url")
    if config.vllm_importance_sampling_correction:
        _check_importance(config)


def _check_importance(config: GRPOConfig) -> None:
    mode, low, high = (
        config.vllm_importance_sampling_mode,
        config.vllm_importance_sampling_clip_min,
        config.vllm_importance_sampling_clip_max,
    )
    if mode not in IMPORTANCE_MODES:
        raise UserError(f"vllm_importance_sampling_mode={mode!r}: use one of {', '.join(IMPORTANCE_MODES)}")
    if mode.endswith("truncate") and low is None and high is None:
        raise UserError(
            f"vllm_importance_sampling_mode={mode!r}: give vllm_importance_sampling_clip_min or "
            "vllm_importance_sampling_clip_max, without both nothing is truncated"
        )
    for name, value in (("clip_min", low), ("clip_max", high)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"vllm_importance_sampling_{name}={value}: must be above 0, or None for no bound")
    if low is not None and high is not None and low >= high:
        raise UserError(
            f"vllm_importance_sampling_clip_min={low}: must be below vllm_importance_sampling_clip_max={high}"
        )
