"""A recipe as the loop's task: its problems, format, rewards and schedule."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from random import Random
from statistics import fmean, stdev
from typing import TypeVar

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import OptimizerSection
from mathgrpo.grpo import with_advantages
from mathgrpo.grpo.importance import Importance
from mathgrpo.rollout import Engine
from mathgrpo.rollout.groups import reward_groups, sample_groups
from mathgrpo.runs.task import Metrics
from mathgrpo.training.prepare import Prepared
from mathgrpo.types import Graded, Problem, RolloutGroup, Sampling
from mathgrpo.update import Lesson


class RecipeTask:
    """What a prepared recipe trains on, see `mathgrpo.runs.task.Task`."""

    def __init__(self, ready: Prepared) -> None:
        self._ready, self._recipe = ready, ready.recipe
        self.seed, self.steps = ready.recipe.run.seed, ready.recipe.training.steps

    def done(self, step: int) -> int:
        """Return the steps done: a step is a rollout."""
        return step

    def is_over(self, step: int) -> bool:
        """Return whether all steps are taken."""
        return step >= self.steps

    def items(self, step: int) -> list[Problem]:
        """Return the problems of a step."""
        return problems_of_step(self._ready.problems.train, step, self._recipe.rollout.prompts_per_step, self.seed)

    def draw(self, engine: Engine, items: Sequence[Problem], step: int) -> list[RolloutGroup]:
        """Return completions of the problems. The noise is counted: the same whichever process draws them."""
        ready, size = self._ready, self._recipe.rollout.group_size
        return sample_groups(engine, ready.policy, items, ready.fmt, size, sampling_of_step(self._recipe, step))

    def score(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with rewards and verdicts."""
        return reward_groups(groups, self._ready.fmt, self._ready.suite)

    def advantages(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with advantages."""
        return with_advantages(groups, self._recipe.grpo.advantage_scale, self._ready.suite.weights)

    def metrics(self, groups: Sequence[RolloutGroup]) -> Metrics:
        """Return rewards, accuracy, form and length."""
        return {**rollout_metrics(groups)}

    def learning_rate(self, step: int) -> float:
        """Return the schedule's rate."""
        return learning_rate_at(step, self.steps, self._recipe.optimizer)

    def lesson(self, groups: Sequence[RolloutGroup], step: int) -> Lesson:
        """Return the recipe's settings of the update."""
        rollout = self._recipe.rollout
        cap = rollout.vllm.importance_cap if rollout.vllm is not None else 0.0
        return Lesson(
            self._recipe.grpo, rollout.temperature, rollout.max_new_tokens, self._recipe.optimizer.max_grad_norm,
            importance=Importance(high=cap, mask=False, whole=False) if cap else None,
            sampling=sampling_of_step(self._recipe, step),
            tolerance=rollout.vllm.probe_tolerance if rollout.vllm is not None else 0.0,
        )  # fmt: skip


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


def learning_rate_at(step: int, steps: int, section: OptimizerSection) -> float:
    """Return the learning rate of a step: a straight rise during warm-up, then constant, linear or cosine to 0.

    step: steps taken before this one, so the first is 0. With warm-up its rate is 0, as in the source.
    Source: transformers' get_constant/linear/cosine_schedule_with_warmup, warm-up steps rounded up.

    Example:
        >>> section = OptimizerSection(learning_rate=0.5, schedule="linear", warmup_ratio=0.2)
        >>> [learning_rate_at(step, 10, section) for step in (0, 1, 2, 6)]
        [0.0, 0.25, 0.5, 0.25]
    """
    warmup_steps = math.ceil(section.warmup_ratio * steps)
    if step < warmup_steps:
        return section.learning_rate * step / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if section.schedule == "constant":
        return section.learning_rate
    if section.schedule == "linear":
        return section.learning_rate * max(0.0, 1.0 - progress)
    return section.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return what a step's completions say: rewards, accuracy, form, length.

    reward_std is the mean over groups of the sample deviation in the group; reward/<name> is the mean of the
    completions the reward applies to; format_rate is strict. A completion to which no reward applies counts in no mean
    of rewards, and a step without any reward has none.
    """
    completions = [completion for group in groups for completion in group.completions]
    return {
        **_reward_spread([[reward for reward in group.rewards if not math.isnan(reward)] for group in groups]),
        **_reward_means(groups),
        **_grade_rates([graded for group in groups for graded in group.grades]),
        "completions/mean_length": fmean(len(completion.ids) for completion in completions),
        "completions/clipped_ratio": fmean(completion.finish_reason == "length" for completion in completions),
    }


def _reward_spread(known: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return mean and spread of the groups' known rewards."""
    everything = [reward for rewards in known for reward in rewards]
    spread = {"frac_reward_zero_std": fmean(len(set(rewards)) <= 1 for rewards in known)}
    if not everything:
        return spread
    deviations = [stdev(rewards) if len(rewards) > 1 else 0.0 for rewards in known]
    return {"reward": fmean(everything), "reward_std": fmean(deviations), **spread}


def _reward_means(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    names = dict.fromkeys(name for group in groups for name in group.reward_parts)
    means: dict[str, float] = {}
    for name in names:
        values = [value for group in groups for value in group.reward_parts.get(name, ()) if value is not None]
        means |= {f"reward/{name}": fmean(values)} if values else {}
    return means


def _grade_rates(grades: Sequence[Graded]) -> dict[str, float]:
    """Return the shares of the graded completions; nothing where none is graded."""
    if not grades:
        return {}
    return {
        "accuracy": fmean(graded.verdict == "correct" for graded in grades),
        "grader_errors": float(sum(graded.verdict in ("timeout", "error") for graded in grades)),
        "format_rate": fmean(graded.format_strict for graded in grades),
        "worked_rate": fmean(graded.worked for graded in grades),
    }
