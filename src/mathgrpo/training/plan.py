"""What a run will do, in numbers, before it does it."""

from __future__ import annotations

from pathlib import Path

from mathgrpo.evaluation.records import counted_by
from mathgrpo.models.shape import count_parameters
from mathgrpo.text import gigabytes, number
from mathgrpo.training.memory_plan import MemoryPlan
from mathgrpo.training.prepare import Prepared


def plan_lines(run: Prepared, folder: Path) -> list[str]:
    """Return the plan of a prepared run for a reader, one line a subject."""
    recipe, sets, rollout = run.recipe, run.problems, run.recipe.rollout
    counts, steps = count_parameters(run.policy.model), recipe.training.steps
    share = "all train" if counts.trainable == counts.total else f"{counts.trainable:,} train (LoRA)"
    share += f", {counts.quantized:,} in 4-bit" if counts.quantized else ""
    precision = str(run.policy.compute_dtype).removeprefix("torch.")
    completions = rollout.prompts_per_step * rollout.group_size
    epochs = steps * rollout.prompts_per_step / len(sets.train)
    evaluated = (len(sets.heldout) + len(sets.heldout_templates)) * (1 + recipe.evaluation.samples)
    samples = f" and {recipe.evaluation.samples} samples" if recipe.evaluation.samples else ""
    every = f", every {recipe.training.evaluate_every} steps" if recipe.training.evaluate_every else ""
    counted = "" if run.suite.correct is None else counted_by(str(run.suite.correct))
    return [
        f"model       {run.policy.name}: {counts.total:,} parameters, {share}; "
        f"computes in {precision} on {run.policy.device}",
        f"problems    {len(sets.train):,} to train on, {len(sets.heldout):,} held out"
        + (f", {len(sets.heldout_templates):,} of held-out templates" if sets.heldout_templates else ""),
        f"step        {rollout.prompts_per_step} prompts × {rollout.group_size} completions = {completions:,}, at most "
        f"{completions * rollout.max_new_tokens:,} sampled tokens; longest prompt {run.longest_prompt} tokens",
        f"run         {steps:,} steps, {recipe.grpo.updates_per_rollout} update(s) each, {number(epochs, 2)} epochs, "
        f"{steps * completions:,} completions",
        f"evaluation  before and after{every}: {evaluated:,} completions each (greedy{samples}), "
        f"at most {run.evaluation_tokens} tokens{counted}",
        *(memory_lines(run.memory) if run.memory is not None else ()),
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
