"""The update in the true shape of Qwen2.5-0.5B, 64 × 8 × (200 + 200): seconds, MFU, memory, by what it is made of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch

from benchmarks.gpu.case import Case, Numbers, Setup, WrongNumbers
from benchmarks.gpu.child import device_peak_bytes, free_memory, reset_device_peak
from benchmarks.gpu.kernels_by_class import class_seconds, device_spans, longest_kernels, profiled
from benchmarks.gpu.synthetic import (
    OVER_PLAN,
    memory_plan,
    random_groups,
    random_model,
    random_policy,
    update_work,
)
from benchmarks.gpu.timing import peak_flops, seconds_once
from mathgrpo.config import Recipe
from mathgrpo.config.machinery import FAST, Machinery
from mathgrpo.config.recipe import GrpoSection, OptimizerSection
from mathgrpo.hardware.flops import training_flops
from mathgrpo.models import Policy
from mathgrpo.models.shape import model_shape
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.training.memory_plan import MemoryPlan
from mathgrpo.types import RolloutGroup
from mathgrpo.update import UpdateStats, logprobs, policy_update
from mathgrpo.update.layer_modes import compiled_parts

REPEATS = 3


def cases(setup: Setup) -> Iterator[Case]:
    """Yield the update as a run does it, then with one thing changed at a time."""
    bench = _Bench(setup)
    size = "64 × 8 × (200 + 200) tokens"
    yield Case("as a run does it", bench.measure, size=size, limit_s=60)
    for kernel in ("sdpa", "varlen"):
        yield Case(f"attention {kernel}", partial(bench.measure, attention=kernel), size=size, limit_s=30)
    yield Case("by kernel", bench.profile, limit_s=40)
    yield Case("chunked against full logits", lambda: _head_memory(setup), size="8 × 1,024 completion tokens")
    yield Case(
        "ragged lengths, other ones each time", bench.ragged, size="64 × 8 × (200 + 1 to 400) tokens", limit_s=40
    )
    yield Case("fused forward", lambda: bench.measure(fused_forward="on"), size=size, limit_s=30)
    yield Case("no compute copy", lambda: bench.measure(compute_copy="off"), size=size, limit_s=30)
    for power in (25, 26, 28, 29):
        yield Case(f"head in chunks of 2^{power} logits", partial(bench.measure, chunk=1 << power),
                   size=size, limit_s=30)  # fmt: skip
    for budget in (8192, 16384, 65536, 131072):
        yield Case(f"micro-batches of {budget:,} tokens", partial(bench.measure, token_budget=budget),
                   size=size, limit_s=30)  # fmt: skip
    yield Case("compiled layers", lambda: bench.measure(compiled=True), size=size, limit_s=60)


class _Bench:
    """The work of a step, and policies to do it with."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        sizes = setup.pick((64, 8, 200, 200), (2, 2, 8, 6))
        self._recipe = Recipe.model_validate(
            {"rollout": {"prompts_per_step": sizes[0], "group_size": sizes[1], "max_new_tokens": sizes[3]}}
        )
        self._longest = sizes[2]
        self._groups = cache(partial(random_groups, *sizes))

    def measure(
        self, *, chunk: int = 0, compiled: bool = False, **how: Any,
    ) -> Numbers:  # fmt: skip
        """Measure updates of a fresh model: the median of some behind one that is not timed. how: of `Machinery`."""
        setup = self._setup
        policy = random_policy(setup, random_model(setup))
        machinery = Machinery(**how)
        plan = self._plan(policy, machinery)
        update, stats = self._update(policy, plan, machinery)
        with _head_chunks(setup.device, chunk), compiled_parts(policy.model, compiled):
            first = seconds_once(update, setup.device)
            seconds = [seconds_once(update, setup.device) for _ in range(setup.pick(REPEATS, 1))]
        return self._numbers(policy, plan, statistics.median(seconds), stats[-1]) | {"first_s": first}

    def ragged(self) -> Numbers:
        """Measure updates that each meet shapes of their own, as a run's do: what is made for a shape is made again."""
        setup = self._setup
        policy = random_policy(setup, random_model(setup))
        prompts, size, prompt_tokens, new_tokens = setup.pick((64, 8, 200, 400), (2, 2, 8, 9))
        optimizer = build_optimizer(policy.model, OptimizerSection(), policy.compute_dtype)
        seconds, rates = [], []
        for seed in range(2 + setup.pick(REPEATS, 1)):
            groups = random_groups(prompts, size, prompt_tokens, new_tokens, policy.model.config.vocab_size, seed, 1)
            work = partial(_update_once, policy, optimizer, groups, new_tokens, setup.pick(32768, 8192))
            seconds.append(seconds_once(work, setup.device))
            rates.append(update_work(groups)[0] / seconds[-1])
        return {"unique_tokens_per_s": statistics.median(rates[2:]), "ms_each": [1e3 * s for s in seconds]}

    def profile(self) -> Numbers:
        """Measure what the device does in an update, by kernel class."""
        policy = random_policy(self._setup, random_model(self._setup))
        update, _ = self._update(policy, self._plan(policy, FAST), FAST)
        update()
        spans = device_spans(profiled(update, self._setup.device))
        if not spans:
            return {"kernels": 0, "note": "no device, so nothing to see"}
        by_class = class_seconds(spans)
        return {
            "device_ms": 1e3 * sum(by_class.values()), "span_ms": (spans[-1].end - spans[0].start) / 1e3,
            "kernels": len(spans), "ms_by_class": {name: 1e3 * s for name, s in by_class.items()},
            "ms_by_kernel": {name: 1e3 * s for name, s in longest_kernels(spans, 14).items()},
        }  # fmt: skip

    def _update(
        self, policy: Policy, plan: MemoryPlan, machinery: Machinery
    ) -> tuple[Callable[[], Any], list[UpdateStats]]:
        """Return an update that can be done again and again, and the list that each leaves its stats in."""
        built = build_optimizer(policy.model, OptimizerSection(), policy.compute_dtype, machinery=machinery)
        groups = self._groups(policy.model.config.vocab_size)
        stats: list[UpdateStats] = []

        def update() -> None:
            new_tokens = self._recipe.rollout.max_new_tokens
            stats.append(_update_once(policy, built, groups, new_tokens, plan.token_budget, machinery))

        return update, stats

    def _plan(self, policy: Policy, machinery: Machinery) -> MemoryPlan:
        return memory_plan(policy, self._recipe, self._longest, machinery)

    def _numbers(self, policy: Policy, plan: MemoryPlan, seconds: float, stats: UpdateStats) -> Numbers:
        tokens, attended, head_tokens = update_work(self._groups(policy.model.config.vocab_size))
        flops = training_flops(model_shape(policy.model, 2), tokens, attended, head_tokens)
        peak = device_peak_bytes()
        planned = plan.resident + plan.activations + plan.logits  # no rollout has left its cache here
        numbers: Numbers = {
            "ms": 1e3 * seconds, "mfu": flops / seconds / peak_flops(self._setup),
            "unique_tokens_per_s": tokens / seconds, "peak_gb": peak / 1e9, "planned_gb": planned / 1e9,
            "peak_over_plan": peak / planned, "token_budget": plan.token_budget,
            "budget_in_the_end": stats.token_budget, "micro_batches": stats.micro_batches, "layout": stats.layout,
            "notes": "; ".join(stats.notes),
        }  # fmt: skip
        if stats.token_budget < plan.token_budget and self._setup.device == "cuda":
            raise WrongNumbers("memory ran out at the planned budget, which was halved", numbers)
        if numbers["peak_over_plan"] > OVER_PLAN:
            raise WrongNumbers("it took more memory than planned", numbers)
        return numbers


def _head_memory(setup: Setup) -> Numbers:
    """Measure what an update takes on top of the model, by itself and with all logits at once.

    One layer: the activations of 24 are the same in both, and would hide what the head takes.
    """
    policy = random_policy(setup, random_model(setup, num_hidden_layers=1))
    completions, new_tokens = setup.pick((8, 1024), (2, 8))
    groups = random_groups(1, completions, setup.pick(64, 8), new_tokens, policy.model.config.vocab_size)
    optimizer = build_optimizer(policy.model, OptimizerSection(), policy.compute_dtype)
    taken: dict[str, float] = {}
    for name, chunk in (("chunked", 0), ("full", 1 << 40)):
        for _ in range(2):  # the optimizer's state is there from the first on
            free_memory()
            reset_device_peak()
            held = torch.cuda.memory_allocated() if setup.device == "cuda" else 0
            with _head_chunks(setup.device, chunk):
                _update_once(policy, optimizer, groups, new_tokens, 32768)
            taken[name] = device_peak_bytes() - held
    logits = completions * new_tokens * policy.model.config.vocab_size * 4
    numbers: Numbers = {f"{name}_gb": size / 1e9 for name, size in taken.items()} | {"logits_float32_gb": logits / 1e9}
    return numbers | ({"memory_ratio": taken["chunked"] / taken["full"]} if taken["full"] else {})


@contextmanager
def _head_chunks(device: str, elements: int) -> Iterator[None]:
    """Compute the head in chunks of so many logits inside the block; 0: as usual."""
    usual = logprobs.CHUNK_ELEMENTS[device]
    logprobs.CHUNK_ELEMENTS[device] = elements or usual
    try:
        yield
    finally:
        logprobs.CHUNK_ELEMENTS[device] = usual


def _update_once(
    policy: Policy, optimizer: Any, groups: list[RolloutGroup], new_tokens: int, token_budget: int,
    machinery: Machinery = FAST,
) -> UpdateStats:  # fmt: skip
    return policy_update(
        policy, optimizer, groups, GrpoSection(), temperature=1.0, max_new_tokens=new_tokens,
        max_grad_norm=1.0, token_budget=token_budget, machinery=machinery,
    )  # fmt: skip
