"""Which problems a step trains on, and with what noise it samples: functions of seed and step alone, so that a resumed
run meets the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from mathgrpo.config import Recipe
from mathgrpo.types import Sampling

T = TypeVar("T")


def problems_of_step(problems: Sequence[T], step: int, num_prompts: int, seed: int) -> list[T]:
    """Return the problems of a step; steps count from 0.

    Every epoch is a new permutation, cut into whole steps: the rest (fewer than num_prompts problems) waits for
    another epoch, so no step has a problem twice.
    """
    steps_per_epoch = len(problems) // num_prompts
    if steps_per_epoch == 0:
        raise ValueError(f"{len(problems)} problems are too few for steps of {num_prompts}")
    epoch, place = divmod(step, steps_per_epoch)
    order = list(range(len(problems)))
    Random(counted_seed(seed, "order", epoch)).shuffle(order)
    return [problems[i] for i in order[place * num_prompts : (place + 1) * num_prompts]]


def sampling_of_step(recipe: Recipe, step: int) -> Sampling:
    """Return how a step's completions are drawn. The noise of a problem met again in a later epoch is new."""
    rollout = recipe.rollout
    return Sampling(
        max_new_tokens=rollout.max_new_tokens, temperature=rollout.temperature,
        top_p=rollout.sampling.get("top_p", 1.0), top_k=int(rollout.sampling.get("top_k", 0)),
        min_p=rollout.sampling.get("min_p", 0.0), seed=counted_seed(recipe.run.seed, "rollout", step),
    )  # fmt: skip


def counted_seed(seed: int, purpose: str, count: int) -> int:
    """Return a 63-bit seed for one use of randomness, unrelated to those of other purposes and counts.

    Example:
        >>> counted_seed(0, "rollout", 1) == counted_seed(0, "rollout", 1) != counted_seed(0, "rollout", 2)
        True
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{count}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
