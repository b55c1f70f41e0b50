"""Whether a step of the reference recipes, in their models' true shapes, takes the memory that was planned for it."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.case import Case, NotHere, Numbers, Setup, WrongNumbers
from benchmarks.gpu.child import device_peak_bytes, free_memory, reset_device_peak
from benchmarks.gpu.synthetic import (
    OVER_PLAN,
    groups_of,
    memory_plan,
    random_model,
    random_policy,
    random_prompts,
)
from benchmarks.gpu.timing import seconds_once, synchronize
from mathgrpo.config import Recipe, load_recipe
from mathgrpo.config.machinery import FAST
from mathgrpo.config.recipe import ModelSection
from mathgrpo.models import Policy
from mathgrpo.models.load_policy import compute_dtype
from mathgrpo.models.lora import attach_adapter
from mathgrpo.models.quantized import prepare_quantized
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.rollout import build_engine
from mathgrpo.training.memory_plan import RUNTIME_BYTES, MemoryPlan
from mathgrpo.types import RolloutGroup, Sampling
from mathgrpo.update import UpdateStats, build_reference, policy_update
from mathgrpo.update.layer_modes import compile_pays, recomputed_layers

PROMPT_TOKENS = 200
STEPS = 2
"""The optimizer's moments are there from the first step's end on: the second one is the largest."""


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A recipe and what stands in for its model.

    Attributes:
        settings: that differ from the recipe's own.
    """

    title: str
    recipe: str
    model: Callable[[Setup], Any]
    settings: tuple[str, ...] = ()


RECIPES = (
    _Recipe("qwen2.5-0.5b-xml", "qwen2.5-0.5b-xml", lambda setup: random_model(setup)),
    _Recipe("qwen2.5-0.5b-vllm-a100, native engine", "qwen2.5-0.5b-vllm-a100", lambda setup: random_model(setup),
            ("rollout.vllm=none",)),
    _Recipe("qwen2.5-7b, LoRA, 8 × 8 × 256", "qwen2.5-0.5b-vllm-a100",
            lambda setup: random_model(setup, "qwen2.5-7b", tie_word_embeddings=False),
            ("rollout.vllm=none", "rollout.prompts_per_step=8", "rollout.group_size=8",
             "rollout.max_new_tokens=256", "model.lora.r=16")),
    _Recipe("qwen2.5-3b-qlora", "qwen2.5-3b-qlora", lambda setup: random_model(setup, "qwen2.5-3b")),
    _Recipe("gpt2-step-verified", "gpt2-step-verified", lambda setup: _gpt2(setup)),
)  # fmt: skip


def cases(setup: Setup) -> Iterator[Case]:
    """Yield one step of each recipe."""
    for each in RECIPES:
        yield Case(each.title, partial(_measure, setup, each), size=_size(setup, each), limit_s=60)


def _measure(setup: Setup, asked: _Recipe) -> Numbers:
    """Take a recipe's step twice as its run would, all completions at their limit, and hold its peak against the plan.

    Raises: NotHere without bitsandbytes where it is needed; WrongNumbers when the plan was too small.
    """
    recipe = _recipe(setup, asked)
    if recipe.model.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise NotHere("bitsandbytes is not installed")
    started, left_gb = time.perf_counter(), _held_gb()
    policy = _policy(setup, asked.model(setup), recipe.model)
    reference = build_reference(policy, recipe.grpo.beta)
    free_memory()
    synchronize(setup.device)
    reset_device_peak()  # a run reads its weights from files instead
    numbers: Numbers = {"build_s": time.perf_counter() - started, "left_by_others_gb": left_gb,
                        "loaded_gb": _held_gb()}  # fmt: skip
    wanted, length = recipe.rollout, _prompt_tokens(setup)
    plan = memory_plan(policy, recipe, length)
    engine = build_engine(policy, max_rows=plan.rows, dequantize=plan.dequantize)
    optimizer = build_optimizer(policy.model, recipe.optimizer, policy.compute_dtype)
    numbers |= {"engine": engine.reason, **_planned(plan, recipe, length), "held_gb": _held_gb()}
    prompts = random_prompts(wanted.prompts_per_step, length, policy.causal_lm.config.vocab_size)
    groups: list[RolloutGroup] = []
    stats: list[UpdateStats] = []
    budget = plan.token_budget

    def rollout() -> None:
        sampling = Sampling(wanted.max_new_tokens, temperature=wanted.temperature, seed=len(stats))
        groups[:] = groups_of(prompts, engine.generate(prompts, wanted.group_size, sampling))

    def update() -> None:
        with recomputed_layers(policy.model, plan.recompute):
            stats.append(policy_update(
                policy, optimizer, groups, recipe.grpo, temperature=wanted.temperature,
                max_new_tokens=wanted.max_new_tokens, max_grad_norm=recipe.optimizer.max_grad_norm,
                reference=reference, token_budget=budget,
            ))  # fmt: skip

    for step in range(STEPS):
        seconds = [seconds_once(work, setup.device) for work in (rollout, update)]
        budget = stats[-1].token_budget
        names = ("first_rollout_s", "first_update_s") if step == 0 else ("rollout_s", "update_s")
        numbers |= dict(zip(names, seconds, strict=True))
    sampled = sum(len(completion.ids) for group in groups for completion in group.completions)
    numbers |= {
        "sampled_tokens": sampled, "rollout_tokens_per_s": sampled / numbers["rollout_s"],
        "update_tokens_per_s": stats[-1].tokens / numbers["update_s"], "micro_batches": stats[-1].micro_batches,
        "layout": stats[-1].layout, "budget_used": budget, "notes": [note for each in stats for note in each.notes],
    }  # fmt: skip
    return _judged(setup, numbers, plan, budget)


def _judged(setup: Setup, numbers: Numbers, plan: MemoryPlan, budget: int) -> Numbers:
    """Return the numbers with the peak beside the plan.

    Raises: WrongNumbers when the peak was higher, or memory ran out and smaller micro-batches were taken.
    """
    wrong = []
    if setup.device == "cuda":
        peak = device_peak_bytes()
        free, whole = torch.cuda.mem_get_info()
        # First what a reader of the terminal shall see.
        numbers = {"peak_gb": peak / 1e9, "planned_gb": plan.total / 1e9} | numbers | {
            "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
            "device_used_gb": (whole - free) / 1e9, "peak_over_plan": peak / plan.total,
            "peak_over_plan_of_this_step": peak / 1e9 / numbers["planned_for_this_step_gb"],
        }  # fmt: skip
        if peak > OVER_PLAN * plan.total:
            wrong.append(f"the peak of {peak / 1e9:.1f} GB is above the {plan.total / 1e9:.1f} GB that were planned")
    if budget < plan.token_budget:
        wrong.append(f"the token budget of {plan.token_budget:,} was too much for the device: {budget:,} in the end")
    if wrong:
        raise WrongNumbers("; ".join(wrong), numbers)
    return numbers


def _planned(plan: MemoryPlan, recipe: Recipe, length: int) -> Numbers:
    """Return the plan part by part, and what it comes to for a step that does not fill the token budget.

    The tensors' part leaves out what the plan adds for libraries and the CUDA context, which no allocator counts.
    """
    rollout = recipe.rollout
    unique = rollout.prompts_per_step * (length + rollout.group_size * rollout.max_new_tokens)
    share = min(1.0, unique / plan.token_budget)
    of_step = replace(plan, activations=int(share * plan.activations)).total - RUNTIME_BYTES
    parts = ("weights", "gradients", "optimizer", "copies", "reference", "kv_cache", "kept_cache", "activations",
             "logits")  # fmt: skip
    completions = rollout.prompts_per_step * rollout.group_size
    return {
        "planned_gb": plan.total / 1e9, "planned_for_this_step_gb": of_step / 1e9,
        "parts_gb": {part: getattr(plan, part) / 1e9 for part in parts}, "budget_planned": plan.token_budget,
        "tokens_of_step": unique, "recompute": plan.recompute, "fits": plan.fits,
        "a_run_would_compile": compile_pays(
            FAST, "cuda", recipe.training.steps * completions * rollout.max_new_tokens
        ),
    }  # fmt: skip


def _recipe(setup: Setup, asked: _Recipe) -> Recipe:
    small = ("rollout.prompts_per_step=2", "rollout.group_size=2", "rollout.max_new_tokens=8")
    return load_recipe(asked.recipe, [*asked.settings, *(small if setup.rehearse else ())])


def _size(setup: Setup, asked: _Recipe) -> str:
    rollout = _recipe(setup, asked).rollout
    rows = f"{rollout.prompts_per_step} × {rollout.group_size} completions"
    return f"{rows} of {rollout.max_new_tokens} tokens, prompts of {_prompt_tokens(setup)}"


def _prompt_tokens(setup: Setup) -> int:
    return int(setup.pick(PROMPT_TOKENS, 12))


def _policy(setup: Setup, model: Any, section: ModelSection) -> Policy:
    """Return the policy of a model section around random weights, as `load_policy` makes it from files."""
    dtype = compute_dtype(section.dtype, setup.device)
    if section.quantization != "none":
        quantize(model, section, dtype)
    if section.lora is not None:
        model = attach_adapter(model, section.lora).eval()
    return random_policy(setup, model, dtype)


def quantize(model: Any, section: ModelSection, dtype: torch.dtype) -> None:
    """Turn the matrices of a model's layers into 4-bit ones, where they are, as loading with bitsandbytes does."""
    import bitsandbytes

    kinds: Any = bitsandbytes.nn
    head = model.get_output_embeddings()
    names = [name for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not head]
    for name in names:
        parent, _, child = name.rpartition(".")
        layer = model.get_submodule(name)
        packed = kinds.Linear4bit(
            layer.in_features, layer.out_features, bias=False, compute_dtype=dtype,
            compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        weight = kinds.Params4bit(
            layer.weight.data, requires_grad=False, compress_statistics=True,
            quant_type="nf4", module=packed,
        )  # fmt: skip
        packed.weight, packed.bias = weight.to(layer.weight.device), layer.bias
        setattr(model.get_submodule(parent), child, packed.eval())
    model.requires_grad_(False)
    model.is_loaded_in_4bit = True  # PEFT chooses its layers by it
    prepare_quantized(model, dtype)


def _gpt2(setup: Setup) -> Any:
    """Return a GPT-2 of 124 M parameters with random weights, its dropout off."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    small = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1933, "bos_token_id": 1, "eos_token_id": 1}
    sizes: dict[str, Any] = setup.pick({}, small)
    with torch.device(setup.device):
        model: Any = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **sizes))
    return model.float().eval()


def _held_gb() -> float:
    with suppress(RuntimeError, AssertionError):  # no device
        return torch.cuda.memory_allocated() / 1e9
    return 0.0
