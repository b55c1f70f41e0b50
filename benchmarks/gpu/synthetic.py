"""Models with random weights, made on the device, and work for them: true shapes without a hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.case import Setup
from benchmarks.models import model_config
from benchmarks.task import FORCED_END
from mathgrpo.config import Recipe
from mathgrpo.config.machinery import FAST, Machinery
from mathgrpo.hardware.device_memory import device_bytes
from mathgrpo.hardware.flops import GroupLengths, update_size
from mathgrpo.models import Policy, policy_from
from mathgrpo.models.locate import locate_model
from mathgrpo.models.shape import model_sizes
from mathgrpo.training.memory_plan import MemoryPlan, plan_memory
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup

SHAPE = "qwen2.5-0.5b"
OVER_PLAN = 1.05
"""A peak above the plan by more than this is a plan that cannot be trusted."""


def random_model(setup: Setup, shape: str = SHAPE, *, seed: int = 0, **overrides: int) -> Any:
    """Return a Qwen2 model in float32 with random weights, made where it will be used; norms and biases are random too.

    shape: of `benchmarks.models.SHAPES`; a rehearsal takes "tiny" in its place, with the overrides of this call.
    """
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(seed)
    with torch.device(setup.device):
        model: Any = Qwen2ForCausalLM(model_config(setup.pick(shape, "tiny"), **overrides)).float()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or "bias" in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    return model.eval()


def random_policy(setup: Setup, model: Any, dtype: torch.dtype = torch.bfloat16) -> Policy:
    """Return a policy around a model, whose completions never end before their limit."""
    policy = policy_from(model, tokenizer(setup), device=setup.device, dtype=dtype, name="random weights")
    return dataclasses.replace(policy, eos_ids=(FORCED_END,))


def tokenizer(setup: Setup) -> Any:
    """Return Qwen2.5's own tokenizer where it was carried, else the starter's."""
    from transformers import AutoTokenizer

    real = (setup.carried or Path("nowhere")) / "tokenizer"
    return AutoTokenizer.from_pretrained(real if real.is_dir() and not setup.rehearse else locate_model("starter"))


def random_prompts(count: int, length: int, vocabulary: int, seed: int = 0) -> list[Prompt]:
    """Return prompts of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocabulary, (count, length), generator=generator).tolist()
    return [Prompt(tuple(row), key=1000 + i) for i, row in enumerate(ids)]


def groups_of(prompts: list[Prompt], completions: list[list[Completion]]) -> list[RolloutGroup]:
    """Return what an engine gave as groups with `spread_advantages`."""
    return [
        RolloutGroup(Problem(f"question {i}", "1"), prompt, tuple(group), ("",) * len(group),
                     rewards=spread_advantages(len(group)), advantages=spread_advantages(len(group)))
        for i, (prompt, group) in enumerate(zip(prompts, completions, strict=True))
    ]  # fmt: skip


def spread_advantages(size: int) -> tuple[float, ...]:
    """Return advantages of a group, of 2 or more, that are all different and sum to 0: random weights would earn none.

    Example:
        >>> spread_advantages(3)
        (-1.0, 0.0, 1.0)
    """
    return tuple(2 * g / (size - 1) - 1.0 for g in range(size))


def update_work(groups: Sequence[RolloutGroup]) -> tuple[int, int, int]:
    """Return (tokens, attended, head tokens) of an update on these groups, see `flops.update_size`."""
    return update_size([GroupLengths(len(g.prompt.ids), tuple(len(c.ids) for c in g.completions)) for g in groups])


def memory_plan(policy: Policy, recipe: Recipe, longest_prompt: int, machinery: Machinery = FAST) -> MemoryPlan:
    """Return the plan of a run of this policy on its device, as a run makes it."""
    sizes = model_sizes(policy.model)
    assert sizes is not None
    return plan_memory(
        sizes, recipe, compute_bytes=policy.compute_dtype.itemsize, longest_prompt=longest_prompt,
        device=device_bytes(policy.device), kind=policy.device.split(":")[0],
        machinery=machinery,
    )  # fmt: skip


def random_groups(
    num_prompts: int, group_size: int, prompt_tokens: int, new_tokens: int, vocabulary: int, seed: int = 0,
    shortest: int = 0,
) -> list[RolloutGroup]:  # fmt: skip
    """Return groups of random tokens, every completion at its limit; with shortest, of any length from there to it."""
    prompts = random_prompts(num_prompts, prompt_tokens, vocabulary, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (num_prompts, group_size)
    ids = torch.randint(2, vocabulary, (*shape, new_tokens), generator=generator).tolist()
    lengths = torch.randint(shortest or new_tokens, new_tokens + 1, shape, generator=generator).tolist()
    completions = [
        [Completion(tuple(row[:n]), (-1.0,) * n, "length") for row, n in zip(group, sizes, strict=True)]
        for group, sizes in zip(ids, lengths, strict=True)
    ]
    return groups_of(prompts, completions)
