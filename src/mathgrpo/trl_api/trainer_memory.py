"""The memory of a run, before its first step: micro-batches that fit, or why nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import GrpoSection, LoraSection, ModelSection, RolloutSection
from mathgrpo.distributed import SINGLE
from mathgrpo.errors import UserError
from mathgrpo.models import Policy
from mathgrpo.models.shape import model_sizes
from mathgrpo.text import gigabytes
from mathgrpo.training.memory_plan import MemoryPlan, plan_memory
from mathgrpo.training.together import own_bytes
from mathgrpo.trl_api.dataset import Row, encode, require_context
from mathgrpo.trl_api.grpo_config import GRPOConfig

_SAMPLED_ROWS = 64
"""Rows whose prompts are measured. A longer one costs no more than a halved micro-batch."""


def plan_run(policy: Policy, rows: Sequence[Row], args: GRPOConfig) -> MemoryPlan | None:
    """Return how a run uses its device's memory; None for a model that does not say its shape.

    Raises: UserError when not even one completion fits, or a prompt is too long for the model.
    """
    measured = [rows[i] for i in range(min(len(rows), _SAMPLED_ROWS))]
    prompts = [encode(policy.tokenizer, row["prompt"], args, 0) for row in measured]
    require_context(prompts, policy.max_context, args)
    longest = max(len(prompt.ids) for prompt in prompts)
    sizes = model_sizes(policy.model)
    if sizes is None:
        return None
    adapter = LoraSection() if hasattr(policy.model, "peft_config") else None
    recipe = Recipe(
        model=ModelSection(lora=adapter),
        rollout=RolloutSection(
            prompts_per_step=args.prompts_per_rollout, group_size=args.num_generations,
            max_new_tokens=args.max_completion_length,
        ),
        grpo=GrpoSection(beta=float(args.beta)),
    )  # fmt: skip
    plan = plan_memory(
        sizes, recipe, compute_bytes=policy.compute_dtype.itemsize, longest_prompt=longest,
        device=own_bytes(SINGLE, policy.device), kind=policy.device.split(":")[0],
    )  # fmt: skip
    if args.use_vllm:
        plan = replace(plan, kv_cache=0)  # vLLM keeps them, in its own share
    if plan.is_hopeless:
        needed = plan.resident + max(plan.kv_cache, plan.one_completion + plan.logits)
        raise UserError(
            f"model: needs about {gigabytes(needed)}, the device has {gigabytes(plan.device or 0)} (weights "
            f"{gigabytes(plan.weights)}, gradients and optimizer {gigabytes(plan.gradients + plan.optimizer)}, keys "
            f"and values {gigabytes(plan.kv_cache)}, one completion {gigabytes(plan.one_completion)}); pass a "
            "peft_config, lower max_completion_length or the batch, or use a smaller model"
        )
    return plan
