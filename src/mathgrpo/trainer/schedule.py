"""Optimizer and learning-rate schedule of a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from mathgrpo.config.recipe import OptimizerSection
from mathgrpo.models import Policy
from mathgrpo.trainer.config import GRPOConfig
from mathgrpo.training.optimizer import build_optimizer, set_learning_rate


def make_optimizer(policy: Policy, args: GRPOConfig) -> torch.optim.Optimizer:
    """Return AdamW over all that trains; weight decay on weights of two dimensions and more."""
    section = OptimizerSection(beta1=args.adam_beta1, beta2=args.adam_beta2, weight_decay=args.weight_decay)
    optimizer = build_optimizer(policy.model, section)
    for group in optimizer.param_groups:
        group["eps"] = args.adam_epsilon
    set_learning_rate(optimizer, args.learning_rate)
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, args: GRPOConfig, max_steps: int) -> Any:
    """Return transformers' learning-rate schedule over max_steps optimizer steps."""
    from transformers import get_scheduler

    return get_scheduler(
        args.lr_scheduler_type, optimizer, num_warmup_steps=warmup_steps(args, max_steps),
        num_training_steps=max_steps, scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),  # type: ignore[arg-type]
    )  # fmt: skip


def warmup_steps(args: GRPOConfig, max_steps: int) -> int:
    """Return the optimizer steps during which the learning rate rises: warmup_steps, else a share of all.

    Example:
        >>> warmup_steps(GRPOConfig(warmup_ratio=0.1), 400)
        40
    """
    if args.warmup_steps >= 1:
        return int(args.warmup_steps)
    share = args.warmup_steps or args.warmup_ratio or 0.0
    return math.ceil(max_steps * share)
