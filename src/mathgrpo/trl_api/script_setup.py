"""What a trainer's run is made of before its first step: memory plan, optimizer, learning-rate scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import GrpoSection, LoraSection, ModelSection, OptimizerSection, RolloutSection
from mathgrpo.distributed import World
from mathgrpo.errors import UserError, first_line
from mathgrpo.models import Policy
from mathgrpo.models.shape import model_sizes
from mathgrpo.optim.master_adamw import MasterAdamW
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.training.loop import set_learning_rate
from mathgrpo.training.memory_plan import MemoryPlan, plan_memory, require_fit
from mathgrpo.training.together import own_bytes, own_part
from mathgrpo.trl_api.dataset import Row, encode, require_context
from mathgrpo.trl_api.grpo_config import GRPOConfig

_SAMPLED_ROWS = 64
"""Rows whose prompts are measured. A longer one costs no more than a halved micro-batch."""


def memory_of(policy: Policy, rows: Sequence[Row], args: GRPOConfig, world: World) -> MemoryPlan | None:
    """Return how a run uses its device's memory; None for a model that does not say its shape.

    Raises: UserError when not even one completion fits, or a prompt is too long for the model.
    """
    measured = [rows[i] for i in range(min(len(rows), _SAMPLED_ROWS))]
    prompts = [encode(policy.tokenizer, row["prompt"], args, 0) for row in measured]
    require_context(prompts, policy.max_context, args)
    sizes = model_sizes(policy.model)
    if sizes is None:
        return None
    rollout = RolloutSection(
        prompts_per_step=args.prompts_per_rollout, group_size=args.num_generations,
        max_new_tokens=args.max_completion_length,
    )  # fmt: skip
    adapter = LoraSection() if hasattr(policy.model, "peft_config") else None
    recipe = Recipe(model=ModelSection(lora=adapter), rollout=rollout, grpo=GrpoSection(beta=float(args.beta)))
    plan = plan_memory(
        sizes, own_part(world, recipe), compute_bytes=policy.compute_dtype.itemsize,
        longest_prompt=max(len(prompt.ids) for prompt in prompts), device=own_bytes(world, policy.device),
        kind=policy.device.split(":")[0],
    )  # fmt: skip
    if args.use_vllm:
        plan = replace(plan, kv_cache=0)  # vLLM keeps them, in its own share
    require_fit(plan, policy.name)
    return plan


def make_optimizer(
    policy: Policy, args: GRPOConfig, last: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """Return AdamW over all that trains, at its start; weight decay on weights of two dimensions and more.

    last: the optimizer of an earlier call of train(). One with compute copies is begun anew and not made again: its
        hooks are on the model for good.
    """
    if isinstance(last, MasterAdamW):
        last.state.clear()
        for group in last.param_groups:
            group.pop("initial_lr", None)
        optimizer: torch.optim.Optimizer = last
    else:
        section = OptimizerSection(betas=(args.adam_beta1, args.adam_beta2), weight_decay=args.weight_decay)
        optimizer = build_optimizer(policy.model, section, policy.compute_dtype)
    for group in optimizer.param_groups:
        group["eps"] = args.adam_epsilon
    set_learning_rate(optimizer, args.learning_rate)
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, args: GRPOConfig, max_steps: int) -> Any:
    """Return transformers' learning-rate schedule over max_steps optimizer steps.

    Raises: UserError for lr_scheduler_kwargs that it does not take.
    """
    from transformers import get_scheduler

    try:
        return get_scheduler(
        args.lr_scheduler_type, optimizer, num_warmup_steps=args.get_warmup_steps(max_steps),
        num_training_steps=max_steps, scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),  # type: ignore[arg-type]
        )  # fmt: skip
    except TypeError as error:
        raise UserError(
            f"lr_scheduler_kwargs={args.lr_scheduler_kwargs}: lr_scheduler_type={args.lr_scheduler_type!r} does not "
            f"take them ({first_line(error)})"
        ) from error
