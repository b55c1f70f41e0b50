"""Which experiments there are: who meets whom, at which settings."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.orchestrate import Pace
from benchmarks.settings import (
    OURS,
    OURS_SKIPPING,
    TRL_BATCHING,
    TRL_COMPILED,
    TRL_GENERATE,
    TRL_MICRO,
    TRL_STATIC,
    TRL_STATIC_BF16,
    TRL_TUNED_ALLOCATOR,
    VLLM,
    Contestant,
    Record,
    Settings,
)

PROVING = TRL_GENERATE.model_copy(update={"options": {"gradient_path": "set by the orchestrator"}})
"""TRL's `generate`, which leaves a batch with its gradient for the comparison before the first step."""
GPU_MICRO_BATCHES = 8
"""Of TRL's step with 512 completions. Without gradient checkpointing a token of the 0.5 B model keeps 1.7 MB for the
backward pass (counted: what autograd saves of two layers less that of one, under autocast), so that 64 rows of 284
tokens keep 31 GB; twice as many do not fit 80 GB beside weights, gradients and optimizer, and would be no faster."""


class Plan(Record):
    """An experiment before it runs. warmup, min_steps, max_steps: as in `Pace`. share: of the time of its run."""

    name: str
    title: str
    settings: Settings
    contestants: tuple[Contestant, ...]
    warmup: int = 2
    min_steps: int = 3
    max_steps: int = 15
    share: float = 1.0

    def pace(self, deadline: float) -> Pace:
        """Return the pace of this experiment."""
        return Pace(self.warmup, self.min_steps, self.max_steps, deadline)


def quick(settings: Settings) -> list[Plan]:
    """Return the one experiment of --quick."""
    return [
        Plan(
            name="quick", title="A whole step at natural lengths, float32", settings=settings,
            contestants=(OURS, PROVING), warmup=1, min_steps=2, max_steps=24,
        )
    ]  # fmt: skip


def cpu(vllm: bool) -> list[Plan]:
    """Return the experiments of `make bench`, without scaling."""
    peers = (PROVING, TRL_STATIC, TRL_BATCHING)
    rollout_peers = (VLLM,) if vllm else ()
    extra = (OURS_SKIPPING, TRL_MICRO, TRL_TUNED_ALLOCATOR)
    return [
        Plan(name="natural-float32", title="A whole step at natural lengths, float32", settings=Settings(),
             contestants=(OURS, *peers, *extra, *rollout_peers), share=0.24),
        Plan(name="forced-float32", title="A whole step where every completion has 256 tokens, float32",
             settings=Settings(mode="forced"), contestants=(OURS, PROVING, TRL_STATIC, *rollout_peers), warmup=1,
             min_steps=2, max_steps=4, share=0.15),
        Plan(name="natural-bfloat16", title="A whole step at natural lengths, bfloat16",
             settings=Settings(dtype="bfloat16"), contestants=(OURS, PROVING, TRL_STATIC_BF16, TRL_TUNED_ALLOCATOR),
             share=0.1),
        Plan(name="forced-bfloat16", title="A whole step where every completion has 256 tokens, bfloat16",
             settings=Settings(mode="forced", dtype="bfloat16"), contestants=(OURS, PROVING, TRL_STATIC_BF16), warmup=1,
             min_steps=2, max_steps=3, share=0.1),
    ]  # fmt: skip


def gpu() -> list[Plan]:
    """Return the experiments of `make bench-gpu`, without scaling: a 0.5 B model in bfloat16."""
    common = Settings(model="qwen2.5-0.5b", mode="forced", dtype="bfloat16", device="cuda", max_new_tokens=200)
    large = common.model_copy(update={"prompts_per_step": 64})
    long = common.model_copy(update={"prompts_per_step": 1, "max_new_tokens": 1024})
    casting = TRL_BATCHING.model_copy(update={"note": "It casts the weights to bfloat16: no float32 masters are left."})
    peers = (PROVING, TRL_STATIC_BF16, TRL_COMPILED, casting)
    large_peers = tuple(in_micro_batches(peer, GPU_MICRO_BATCHES) for peer in peers)
    return [
        Plan(name="batch-512", title="64 prompts × 8, 200 tokens each", settings=large,
             contestants=(OURS, *large_peers), min_steps=2, max_steps=6, share=0.35),
        Plan(name="batch-64", title="8 prompts × 8, 200 tokens each", settings=common, contestants=(OURS, *peers),
             min_steps=2, max_steps=6, share=0.18),
        Plan(name="vocabulary", title="Peak memory of a large vocabulary: 1 prompt × 8, 1,024 tokens each",
             settings=long, contestants=(OURS, TRL_GENERATE), warmup=1, min_steps=2, max_steps=3, share=0.1),
    ]  # fmt: skip


def in_micro_batches(contestant: Contestant, count: int) -> Contestant:
    """Return a TRL contestant that takes each step in `count` micro-batches.

    It proves no gradient: for that, TRL differentiates the step as one batch, for which there may be no memory.
    """
    options = {key: value for key, value in contestant.options.items() if key != "gradient_path"}
    return contestant.model_copy(update={"options": options | {"micro_batches": count}})


class AxisPlan(Record):
    """A scaling axis before it runs: field of the settings, its values, and at which of them TRL takes part."""

    name: str
    title: str
    base: Settings
    values: tuple[int | str, ...]
    with_trl: tuple[int | str, ...] = ()

    def plan(self, value: int | str) -> Plan:
        """Return the experiment at one value."""
        settings = self.base.model_copy(update={self.name: value})
        contestants = (OURS, TRL_GENERATE) if value in self.with_trl else (OURS,)
        return Plan(
            name=f"{self.name}-{value}", title=self.title, settings=settings, contestants=contestants, warmup=1,
            min_steps=2, max_steps=3,
        )  # fmt: skip


def cpu_axes() -> list[AxisPlan]:
    """Return the scaling axes of `make bench`. Random weights in the starter's shape, so that length has no limit."""
    base = Settings(model="starter-shape", mode="forced", max_new_tokens=64)
    small = base.model_copy(update={"prompts_per_step": 4, "group_size": 4})
    return [
        AxisPlan(name="group_size", title="Completions of one prompt (8 prompts, 64 tokens)", base=base,
                 values=(4, 16, 64), with_trl=(4, 16)),
        AxisPlan(name="prompts_per_step", title="Prompts of a step (8 completions each, 64 tokens)", base=base,
                 values=(4, 16, 64), with_trl=(4, 16)),
        AxisPlan(name="max_new_tokens", title="Completion length (4 prompts × 4)", base=small,
                 values=(64, 256, 1024), with_trl=(64, 256)),
        AxisPlan(name="model", title="Model size (4 prompts × 4, 32 tokens)",
                 base=small.model_copy(update={"max_new_tokens": 32}),
                 values=("1m", "starter-shape", "10m", "30m", "100m"), with_trl=("1m", "30m")),
    ]  # fmt: skip


def gpu_axes() -> list[AxisPlan]:
    """Return the scaling axes of `make bench-gpu`."""
    base = Settings(model="qwen2.5-0.5b", mode="forced", dtype="bfloat16", device="cuda", max_new_tokens=200)
    return [
        AxisPlan(name="group_size", title="Completions of one prompt (8 prompts, 200 tokens)", base=base,
                 values=(4, 16, 64)),
        AxisPlan(name="prompts_per_step", title="Prompts of a step (8 completions each, 200 tokens)", base=base,
                 values=(4, 16, 64)),
        AxisPlan(name="max_new_tokens", title="Completion length (8 prompts × 8)", base=base, values=(64, 256, 1024)),
        AxisPlan(name="model", title="Model size (8 prompts × 8, 200 tokens)", base=base,
                 values=("30m", "100m", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b")),
    ]  # fmt: skip


def tiny(plans: Sequence[Plan], device: str) -> list[Plan]:
    """Return the plans at a size that says nothing about speed but runs all their code in seconds."""
    update = {"model": "tiny", "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 8, "device": device}
    changes = {"warmup": 1, "min_steps": 1, "max_steps": 2}
    return [p.model_copy(update={"settings": p.settings.model_copy(update=update), **changes}) for p in plans]
