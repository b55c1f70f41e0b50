"""What a trainer's run is made of before its first step: memory plan, rollout engine, optimizer, schedule."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import get_scheduler

from mathgrpo.config import Recipe
from mathgrpo.config.machinery import FAST
from mathgrpo.config.recipe import (
    GrpoSection,
    LoraSection,
    ModelSection,
    OptimizerSection,
    RolloutSection,
    VllmSection,
)
from mathgrpo.distributed import World
from mathgrpo.errors import UserError, first_line
from mathgrpo.models import Policy
from mathgrpo.models.long_texts import telling_length
from mathgrpo.optim.master_adamw import MasterAdamW
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.rollout import Engine, build_engine
from mathgrpo.rollout.vllm.client import Client
from mathgrpo.rollout.vllm.versions import PYTHON_VARIABLE, tested_text
from mathgrpo.training.loop import set_learning_rate
from mathgrpo.training.memory_plan import MemoryPlan
from mathgrpo.training.prepare import planned_memory
from mathgrpo.trl_api.dataset import Row, encode, require_context
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.types import Prompt

_SAMPLED_ROWS = 64
"""Rows whose prompts are measured. A longer one costs no more than a halved micro-batch."""


def measured_prompts(policy: Policy, rows: Sequence[Row], args: GRPOConfig) -> list[Prompt]:
    """Return the prompts of the first rows."""
    measured = [rows[i] for i in range(min(len(rows), _SAMPLED_ROWS))]
    return [encode(policy.tokenizer, row["prompt"], args, 0) for row in measured]


def longest_text(policy: Policy, rows: Sequence[Row], args: GRPOConfig) -> int:
    """Return the tokens of the longest text to come, by the first rows; 0 where the model's trials need not know it."""
    if not telling_length(policy.model, policy.max_context):
        return 0
    longest = max((len(prompt.ids) for prompt in measured_prompts(policy, rows, args)), default=0)
    return min(longest + args.max_completion_length, policy.max_context)


def memory_of(policy: Policy, rows: Sequence[Row], args: GRPOConfig, world: World) -> MemoryPlan | None:
    """Return how a run uses its device's memory; None for a model that does not say its shape.

    Raises: UserError when not even one completion fits, or a prompt is too long for the model.
    """
    prompts = measured_prompts(policy, rows, args)
    require_context(prompts, policy.max_context, args)
    recipe = Recipe(
        model=ModelSection(path=policy.name, lora=LoraSection() if hasattr(policy.model, "peft_config") else None),
        rollout=RolloutSection(
            prompts_per_step=args.prompts_per_rollout, group_size=args.num_generations,
            max_new_tokens=args.max_completion_length, vllm=VllmSection() if args.use_vllm else None,
        ),
        grpo=GrpoSection(beta=float(args.beta)),
    )  # fmt: skip
    return planned_memory(recipe, policy, max(len(prompt.ids) for prompt in prompts), world, FAST)


def build_trainer_engine(policy: Policy, args: GRPOConfig, rows: Sequence[Row]) -> Engine:
    """Return the rollout engine of a trainer: vLLM with use_vllm=True, else the fastest one here.

    Raises: UserError when no vLLM is found, or it does not compute what the policy does.
    """
    if not args.use_vllm:
        return build_engine(policy, longest=longest_text(policy, rows, args))
    section = vllm_section(args, policy.device)
    if section.url:
        _wait_for(section.url, args.vllm_server_timeout)
    return build_engine(policy, "vllm", vllm=section)


def vllm_section(args: GRPOConfig, device: str) -> VllmSection:
    """Return the settings of the vLLM engine.

    vllm_mode="server": the server named. "colocate": in this process where vLLM is installed beside this package, else
    a server of our own in the environment that MATHGRPO_VLLM_PYTHON names; that variable goes first.

    Raises: UserError when there is no vLLM of either kind.
    """
    if args.vllm_mode == "server":
        host = "127.0.0.1" if args.vllm_server_host == "0.0.0.0" else args.vllm_server_host
        return VllmSection(url=args.vllm_server_base_url or f"http://{host}:{args.vllm_server_port}")
    own_environment = bool(os.environ.get(PYTHON_VARIABLE))
    if not own_environment and importlib.util.find_spec("vllm") is None:
        raise UserError(
            f"use_vllm=True: no vLLM is found; set {PYTHON_VARIABLE} to the python of an environment with vllm "
            f'{tested_text()}, or use vllm_mode="server" and vllm_server_base_url, or leave use_vllm out: the engine '
            "here samples from the trainer's own weights"
        )
    arguments: list[str] = []
    if args.vllm_tensor_parallel_size > 1:
        arguments += ["--tensor-parallel-size", str(args.vllm_tensor_parallel_size)]
    if args.vllm_model_impl != "vllm":
        arguments += ["--model-impl", args.vllm_model_impl]
    return VllmSection(
        mode="server" if own_environment else "colocate", arguments=tuple(arguments),
        max_model_len=args.vllm_max_model_length or 0, gpu_memory_utilization=args.vllm_gpu_memory_utilization,
        sleep=args.vllm_enable_sleep_mode and device != "cpu",  # CPU builds have no device memory to give back
    )  # fmt: skip


def _wait_for(url: str, timeout_s: float) -> None:
    """Return when the server answers or the time is over; the engine then says what is wrong."""
    client = Client(url.rstrip("/"), timeout_s=5.0, key=os.environ.get("VLLM_API_KEY", ""))
    deadline = time.monotonic() + timeout_s
    if not client.is_ready():
        print(f"waiting for the vLLM server at {url} (vllm_server_timeout={timeout_s:g} s)", file=sys.stderr)
    while not client.is_ready() and time.monotonic() < deadline:
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))


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
