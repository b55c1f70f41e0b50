"""Does memory creep? Many short steps of ever new shapes in one process, and how much its resident memory grows.

    python -m benchmarks.memory_creep [--steps 500] [--dtype float32|bfloat16]

Prompts and completions have new lengths in every step, the number of prompts changes too, so that whatever is cached by
shape (oneDNN's primitives, the allocator's free lists) has its chance to grow. The run fails when resident memory after
the last step is more than LIMIT above what it was after step WARM.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time

import torch

from mathgrpo.config.machinery import Machinery
from mathgrpo.config.recipe import GrpoSection, ModelSection, OptimizerSection
from mathgrpo.grpo import with_advantages
from mathgrpo.hardware.device_memory import bound_kernel_caches, keep_freed_memory, memory_metrics
from mathgrpo.models import Policy, load_policy
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.rollout import Engine, build_engine
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup, Sampling
from mathgrpo.update import policy_update

WARM = 100
"""Steps until the process has met what it will meet."""
LIMIT = 0.05
"""Growth from then on that still counts as none."""
LONGEST = 48
"""Tokens of a completion at most, so that 500 steps take minutes."""


def resident_by_step(steps: int, dtype: str, seed: int = 0) -> list[float]:
    """Return the resident memory in gigabytes after every one of so many rollouts and updates of varying shapes."""
    keep_freed_memory()
    bound_kernel_caches()
    draw = random.Random(seed)
    policy = load_policy(ModelSection.model_validate({"dtype": dtype}), "cpu", train=True)
    engine = build_engine(policy)
    optimizer = build_optimizer(policy.model, OptimizerSection(learning_rate=1e-6))
    section, machinery = GrpoSection(), Machinery(skip_zero_advantage=False)
    resident = []
    for step in range(steps):
        groups = sampled_groups(policy, engine, draw, step)
        policy_update(
            policy, optimizer, groups, section, temperature=1.0, max_new_tokens=LONGEST, max_grad_norm=1.0,
            machinery=machinery,
        )  # fmt: skip
        resident.append(memory_metrics("cpu")["memory/resident_gb"])
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: {resident[-1]:.3f} GB", file=sys.stderr, flush=True)
    return resident


def sampled_groups(policy: Policy, engine: Engine, draw: random.Random, step: int) -> list[RolloutGroup]:
    """Return sampled groups on prompts of random tokens and lengths, with random rewards."""
    vocab_size, group_size = len(policy.tokenizer), draw.randint(2, 6)
    prompts = [
        Prompt(tuple(draw.randrange(10, vocab_size) for _ in range(draw.randint(5, 90))), index)
        for index in range(draw.randint(1, 6))
    ]
    sampling = Sampling(max_new_tokens=draw.randint(4, LONGEST), seed=step)
    sampled: list[list[Completion]] = engine.generate(prompts, group_size, sampling)
    groups = [
        RolloutGroup(
            Problem(question=str(prompt.key), answer="0"), prompt, tuple(completions), ("",) * group_size,
            rewards=tuple(draw.random() for _ in completions),
        )
        for prompt, completions in zip(prompts, sampled, strict=True)
    ]  # fmt: skip
    return with_advantages(groups, "group")


def growth(resident: list[float], warm: int = WARM) -> float:
    """Return by what share the resident memory rose after the warm steps: the last tenth's median over theirs."""
    last = sorted(resident[-max(1, len(resident) // 10) :])
    return last[len(last) // 2] / resident[min(warm, len(resident)) - 1] - 1.0


def main() -> None:
    """Run, print one JSON line, and exit with 1 when memory creeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    started = time.perf_counter()
    resident = resident_by_step(options.steps, options.dtype)
    grown = growth(resident)
    marks = {
        step: round(resident[step - 1], 4) for step in (1, 10, 50, WARM, 200, 300, 400, 500) if step <= len(resident)
    }
    facts = {"growth": round(grown, 4), "resident_gb": marks, "seconds": round(time.perf_counter() - started, 1)}
    print(json.dumps({"steps": options.steps, "dtype": options.dtype, **facts}))
    sys.exit(grown > LIMIT)


if __name__ == "__main__":
    main()
