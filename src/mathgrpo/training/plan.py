"""What a run will do, in numbers, before it does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mathgrpo.models.shape import count_parameters
from mathgrpo.text import gigabytes
from mathgrpo.training.memory_plan import MemoryPlan
from mathgrpo.training.prepare import Prepared
from mathgrpo.update.layer_modes import compile_pays


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a run.

    Attributes:
        parameters, trainable, quantized: numbers of weights: all, those that train, those kept in 4 bits.
        tokens_per_step: sampled tokens of a step, if every completion runs to the limit.
        epochs: how often each training problem is met on average.
        evaluation_completions: completions of one evaluation, all problem sets together.
        memory: None for a model that does not say its shape.
        compiled: whether the update's layers are compiled.
    """

    parameters: int
    trainable: int
    quantized: int
    completions_per_step: int
    tokens_per_step: int
    steps: int
    epochs: float
    evaluation_completions: int
    evaluations: int
    memory: MemoryPlan | None
    compiled: bool

    @property
    def token_budget(self) -> int:
        """Unique tokens of a micro-batch, as asked for or as planned; 0 without a plan: the update's own default."""
        return self.memory.token_budget if self.memory is not None else 0

    @property
    def recompute(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        return self.memory is not None and self.memory.recompute


def make_plan(run: Prepared) -> Plan:
    """Return the sizes of a prepared run."""
    recipe, sets = run.recipe, run.problems
    counts = count_parameters(run.policy.model)
    completions = recipe.rollout.prompts_per_step * recipe.rollout.group_size
    every = recipe.training.evaluate_every
    evaluated = len(sets.heldout) + len(sets.heldout_templates)
    return Plan(
        parameters=counts.total,
        trainable=counts.trainable,
        quantized=counts.quantized,
        completions_per_step=completions,
        tokens_per_step=completions * recipe.rollout.max_new_tokens,
        steps=recipe.training.steps,
        epochs=recipe.training.steps * recipe.rollout.prompts_per_step / len(sets.train),
        evaluation_completions=evaluated * (1 + recipe.evaluation.samples),
        evaluations=2 + ((recipe.training.steps - 1) // every if every else 0),
        memory=run.memory,
        compiled=compile_pays(
            run.machinery, run.policy.device, recipe.training.steps * completions * recipe.rollout.max_new_tokens
        ),
    )


def plan_lines(run: Prepared, plan: Plan, folder: Path) -> list[str]:
    """Return the plan for a reader, one line a subject."""
    recipe, sets, rollout = run.recipe, run.problems, run.recipe.rollout
    share = "all train" if plan.trainable == plan.parameters else f"{plan.trainable:,} train (LoRA)"
    share += f", {plan.quantized:,} in 4-bit" if plan.quantized else ""
    precision = str(run.policy.compute_dtype).removeprefix("torch.")
    samples = f" and {recipe.evaluation.samples} samples" if recipe.evaluation.samples else ""
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
        *(memory_lines(plan.memory) if plan.memory is not None else ()),
        f"run folder  {folder}",
        *(f"note        {note}" for note in run.notes),
    ]


def memory_lines(memory: MemoryPlan) -> list[str]:
    """Return a memory plan for a reader."""
    copies = f", compute copies {gigabytes(memory.copies)}" if memory.copies else ""
    reference = f", reference {gigabytes(memory.reference)}" if memory.reference else ""
    device = f" of the device's {gigabytes(memory.device)}" if memory.device is not None else ""
    kept = f", {gigabytes(memory.kept_cache)} held through the update" if memory.kept_cache else ""
    turns = f", {memory.rows} completions at a time" if memory.rows else ""
    again = "; layers are computed again in the backward pass" if memory.recompute else ""
    return [
        f"memory      at most about {gigabytes(memory.total)}{device}: weights {gigabytes(memory.weights)}, "
        f"gradients {gigabytes(memory.gradients)}, optimizer {gigabytes(memory.optimizer)}{copies}{reference}",
        f"            rollout {gigabytes(memory.kv_cache)} of keys and values{turns}{kept}; update "
        f"{gigabytes(memory.activations)} of activations and {gigabytes(memory.logits)} of logits, "
        f"{memory.token_budget:,} tokens a micro-batch{again}",
    ]
