"""Optimizer and learning-rate schedule of a run."""

from __future__ import annotations

from typing import Any

import torch

from mathgrpo.config.recipe import OptimizerSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.models import Policy
from mathgrpo.optim.master_adamw import MasterAdamW
from mathgrpo.optim.optimizer import build_optimizer, set_learning_rate
from mathgrpo.trl_api.grpo_config import GRPOConfig


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
