"""What a run will do, in numbers, before it does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathgrpo.training.optimizer import trainable_parameters
from mathgrpo.training.prepare import Prepared

ADAM_BYTES = 8
"""Two float32 moments for each weight that trains."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a run. Memory in bytes; kv_cache_bytes is None for a model that does not say its shape.

    Attributes:
        tokens_per_step: sampled tokens of a step, if every completion runs to the limit.
        epochs: how often each training problem is met on average.
        evaluation_completions: completions of one evaluation, all problem sets together.
        weight_bytes, gradient_bytes, optimizer_bytes, reference_bytes: held through the run.
        kv_cache_bytes: of one rollout at most, every completion at the limit.
    """

    parameters: int
    trainable: int
    completions_per_step: int
    tokens_per_step: int
    steps: int
    epochs: float
    evaluation_completions: int
    evaluations: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    reference_bytes: int
    kv_cache_bytes: int | None


def make_plan(run: Prepared) -> Plan:
    """Return the sizes of a prepared run."""
    recipe, sets = run.recipe, run.problems
    parameters = list(run.policy.model.parameters())
    trainable = [parameter for _, parameter in trainable_parameters(run.policy.model)]
    completions = recipe.rollout.prompts_per_step * recipe.rollout.group_size
    every = recipe.training.evaluate_every
    evaluated = len(sets.heldout) + len(sets.heldout_templates)
    copied = run.reference.model.parameters() if run.reference is not None and not run.reference.adapter_off else ()
    return Plan(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in trainable),
        completions_per_step=completions,
        tokens_per_step=completions * recipe.rollout.max_new_tokens,
        steps=recipe.training.steps,
        epochs=recipe.training.steps * recipe.rollout.prompts_per_step / len(sets.train),
        evaluation_completions=evaluated * (1 + recipe.evaluation.samples),
        evaluations=2 + ((recipe.training.steps - 1) // every if every else 0),
        weight_bytes=sum(p.numel() * p.element_size() for p in parameters),
        gradient_bytes=sum(p.numel() * p.element_size() for p in trainable),
        optimizer_bytes=ADAM_BYTES * sum(p.numel() for p in trainable),
        reference_bytes=sum(p.numel() * p.element_size() for p in copied),
        kv_cache_bytes=_kv_cache_bytes(run, completions),
    )


def plan_lines(run: Prepared, plan: Plan, folder: Path) -> list[str]:
    """Return the plan for a reader, one line a subject."""
    recipe, sets, rollout = run.recipe, run.problems, run.recipe.rollout
    share = "all train" if plan.trainable == plan.parameters else f"{plan.trainable:,} train (LoRA)"
    precision = str(run.policy.compute_dtype).removeprefix("torch.")
    samples = f" and {recipe.evaluation.samples} samples" if recipe.evaluation.samples else ""
    kv = f", KV cache at most {gigabytes(plan.kv_cache_bytes)}" if plan.kv_cache_bytes is not None else ""
    copy = f", reference {gigabytes(plan.reference_bytes)}" if plan.reference_bytes else ""
    every = f", every {recipe.training.evaluate_every} steps" if recipe.training.evaluate_every else ""
    return [
        f"model       {run.policy.name}: {plan.parameters:,} parameters, {share}; "
        f"computes in {precision} on {run.policy.device}",
        f"problems    {len(sets.train):,} to train on, {len(sets.heldout):,} held out"
        + (f", {len(sets.heldout_templates):,} of held-out templates" if sets.heldout_templates else ""),
        f"step        {rollout.prompts_per_step} prompts × {rollout.group_size} completions = "
        f"{plan.completions_per_step:,}, at most {plan.tokens_per_step:,} sampled tokens; "
        f"longest prompt {run.longest_prompt} tokens",
        f"run         {plan.steps:,} steps, {recipe.grpo.updates_per_rollout} update(s) each, "
        f"{plan.epochs:.2g} epochs, {plan.steps * plan.completions_per_step:,} completions",
        f"evaluation  before and after{every}: {plan.evaluation_completions:,} completions each (greedy{samples}), "
        f"at most {run.evaluation_tokens} tokens",
        f"memory      weights {gigabytes(plan.weight_bytes)}, gradients {gigabytes(plan.gradient_bytes)}, "
        f"optimizer {gigabytes(plan.optimizer_bytes)}{copy}{kv}; activations come on top",
        f"run folder  {folder}",
        *(f"note        {note}" for note in run.notes),
    ]


def gigabytes(num_bytes: int) -> str:
    """Return a size for a reader.

    Example:
        >>> gigabytes(3_200_000), gigabytes(14_000_000_000)
        ('3.2 MB', '14.0 GB')
    """
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"


def _kv_cache_bytes(run: Prepared, completions: int) -> int | None:
    """Return the keys and values of as many rows as are decoded at once, each with its prompt."""
    config: Any = run.policy.causal_lm.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    layers, hidden = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not heads or not layers or not hidden:
        return None
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    rows = min(run.recipe.rollout.max_rows or completions, completions)
    tokens = rows * (run.longest_prompt + run.recipe.rollout.max_new_tokens)
    return int(2 * layers * heads * head_dim * tokens * run.policy.compute_dtype.itemsize)
