"""A script as the loop's task: the rows of its dataset, its reward functions, its arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.distributed import World
from mathgrpo.grpo import with_advantages
from mathgrpo.grpo.importance import Importance
from mathgrpo.grpo.objectives import COMMON, OBJECTIVES
from mathgrpo.models import Policy
from mathgrpo.rollout import Engine
from mathgrpo.rollout.groups import with_scores
from mathgrpo.runs.task import Metrics
from mathgrpo.training.recipe_task import counted_seed
from mathgrpo.trl_api.dataset import (
    Row,
    Schedule,
    columns_of,
    encode,
    is_conversational,
    require_context,
)  # fmt: skip
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.trl_api.reward_functions import RewardFunctions, RewardNotes
from mathgrpo.trl_api.trl_metrics import lengths_and_rewards
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup, Sampling
from mathgrpo.update import Lesson
from mathgrpo.update.pack import Piece


class ScriptTask:
    """What a trainer trains on, see `mathgrpo.runs.task.Task`. Items are row numbers.

    Attributes:
        state: transformers' TrainerState, which reward functions are given.
        stopped: whether a callback has asked to stop.
        groups, notes: the last rollout with its advantages, and what reward functions noted about it.
    """

    def __init__(
        self, policy: Policy, rewards: RewardFunctions, rows: Sequence[Row], plan: Schedule,
        args: GRPOConfig, world: World,
    ) -> None:  # fmt: skip
        self.policy, self.rewards, self.plan, self.args = policy, rewards, plan, args
        self.seed, self.state, self.stopped = args.seed, None, False  # type: int, Any, bool
        self.groups: Sequence[RolloutGroup] = ()
        self.notes = self._noted = RewardNotes()
        self._rows, self._world = rows, world

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return int(self.state.max_steps)

    def done(self, step: int) -> int:
        """Return the optimizer steps taken."""
        return int(self.state.global_step)

    def is_over(self, step: int) -> bool:
        """Return whether all optimizer steps are taken, or a callback wants no more."""
        return self.stopped or self.done(step) >= self.steps

    def items(self, step: int) -> list[int]:
        """Return the row numbers of a rollout."""
        return self.plan.rows(step)

    def draw(self, engine: Engine, items: Sequence[int], step: int) -> list[RolloutGroup]:
        """Return num_generations completions of each row's prompt."""
        rows = [self._rows[key] for key in items]
        return self.draw_rows(engine, rows, items, self.args.num_generations, f"rollout/{step}")

    def draw_rows(
        self, engine: Engine, rows: Sequence[Row], keys: Sequence[int], group_size: int, purpose: str
    ) -> list[RolloutGroup]:
        """Return completions of the rows' prompts; their texts are decoded without special tokens, as in TRL.

        keys: the row numbers; with `purpose` and the seed they name the noise, so that a resumed run draws the same.
        """
        args, tokenizer = self.args, self.policy.tokenizer
        if not rows:
            return []
        prompts = [encode(tokenizer, row["prompt"], args, key) for row, key in zip(rows, keys, strict=True)]
        require_context(prompts, self.policy.max_context, args)
        drawn = engine.generate(prompts, group_size, self._sampling(purpose))
        return [_group(tokenizer, *each) for each in zip(rows, prompts, drawn, strict=True)]

    def _sampling(self, purpose: str) -> Sampling:
        args = self.args
        return Sampling(
            max_new_tokens=args.max_completion_length, temperature=args.temperature, top_p=args.top_p,
            top_k=args.top_k or 0, min_p=args.min_p or 0.0, seed=counted_seed(args.seed, purpose, 0),
        )  # fmt: skip

    def score(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with their rewards.

        Reward functions get prompts, completions (messages for prompts that are messages, else text), completion_ids,
        the dataset's columns, trainer_state, log_extra and log_metric: as in TRL.
        """
        self._noted = notes = RewardNotes()
        if not groups:
            return []
        rows = [group.problem.columns for group in groups for _ in group.completions]
        texts = [text for group in groups for text in group.texts]
        keywords = columns_of(rows, self.args) | {
            "completion_ids": [list(completion.ids) for group in groups for completion in group.completions],
            "trainer_state": self.state, "log_extra": notes.log_extra, "log_metric": notes.log_metric,
        }  # fmt: skip
        completions = [as_given(row["prompt"], text) for row, text in zip(rows, texts, strict=True)]
        opened = [group.prompt.opened for group in groups for _ in group.texts]
        prompts = [row["prompt"] for row in rows]
        return with_scores(groups, self.rewards.score(prompts, completions, texts, keywords, opened))

    def advantages(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with their advantages, which are scaled in each generation batch on its own."""
        per_generation = self.args.prompts_per_generation
        decoupled = self.args.multi_objective_aggregation == "normalize_then_sum"
        scale: Any = "decoupled" if decoupled else self.args.scale_rewards
        done = [
            group
            for first in range(0, len(groups), per_generation)
            for group in with_advantages(groups[first : first + per_generation], scale, self.rewards.weights)
        ]
        self.groups, self.notes = done, self.gathered_notes(groups)
        return done

    def gathered_notes(self, groups: Sequence[RolloutGroup]) -> RewardNotes:
        """Return what the reward functions of all processes noted in the last call of `score`."""
        return RewardNotes.joined(self._world.gather(self._noted), [len(group.completions) for group in groups])

    def metrics(self, groups: Sequence[RolloutGroup]) -> Metrics:
        """Return lengths and rewards under TRL's names."""
        return lengths_and_rewards(groups, self.notes.metrics, str(self.args.scale_rewards))

    def learning_rate(self, step: int) -> None:
        """Return None: transformers' scheduler sets it."""

    def lesson(self, groups: Sequence[RolloutGroup], step: int) -> Lesson:
        """Return the update of a rollout: each optimizer step on its part of the completions."""
        args = self.args
        updates = min(self.plan.updates_per_rollout, self.steps - self.done(step))
        order = completion_order(groups, counted_seed(args.seed, "parts", step))
        return Lesson(
            grpo_section(args, updates), args.temperature, args.max_completion_length,
            args.max_grad_norm or float("inf"),
            parts=divided(groups, order, args.parts_per_rollout) if args.parts_per_rollout > 1 else (),
            importance=importance_of(args), sampling=self._sampling("rollout"),
        )  # fmt: skip


def _group(tokenizer: Any, row: Row, prompt: Prompt, completions: Sequence[Completion]) -> RolloutGroup:
    texts = (str(tokenizer.decode(list(completion.ids), skip_special_tokens=True)) for completion in completions)
    problem = Problem(question=str(row["prompt"]), answer=str(row.get("answer", "")), columns=row)
    return RolloutGroup(problem=problem, prompt=prompt, completions=tuple(completions), texts=tuple(texts))


def as_given(prompt: Any, text: str) -> Any:
    """Return a completion as reward functions get it: a message after messages, else its text."""
    return [{"role": "assistant", "content": text}] if is_conversational(prompt) else text


def grpo_section(args: GRPOConfig, updates: int) -> GrpoSection:
    """Return the loss settings of an update; advantages are computed before it."""
    return GrpoSection.model_validate(
        {
            "loss": args.loss_type, "loss_settings": loss_settings(args), "beta": float(args.beta),
            "updates_per_rollout": updates, "mask_truncated": bool(args.mask_truncated_completions),
        }
    )  # fmt: skip


def loss_settings(args: GRPOConfig) -> dict[str, float]:
    """Return those of a script's settings that its loss takes; TRL passes over the rest too."""
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    given = {
        "epsilon_low": args.epsilon, "epsilon_high": high, "delta": args.delta, "epsilon_max": high,
        "sapo_temperature_pos": args.sapo_temperature_pos, "sapo_temperature_neg": args.sapo_temperature_neg,
        "entropy_coef": args.entropy_coef, "sequence_ratio": args.importance_sampling_level == "sequence",
    }  # fmt: skip
    takes = (*OBJECTIVES[args.loss_type].settings, *COMMON)
    return {name: float(value) for name, value in given.items() if name in takes and value is not None}


def importance_of(args: GRPOConfig) -> Importance | None:
    """Return the importance weights of the policy loss, None without a correction."""
    if not (args.use_vllm and args.vllm_importance_sampling_correction):
        return None
    level, how = args.vllm_importance_sampling_mode.split("_")
    low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
    return Importance(low, high, mask=how == "mask", whole=level == "sequence")


def completion_order(groups: Sequence[RolloutGroup], seed: int) -> list[int]:
    """Return the rollout's completions, counted through its groups, in random order."""
    count = sum(len(group.completions) for group in groups)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()  # type: ignore[no-any-return]


def divided(groups: Sequence[RolloutGroup], order: Sequence[int], parts: int) -> list[list[Piece]]:
    """Return the completions in parts of equally many, as far as it goes, each part group by group.

    order: the completions in the order in which the parts take them.
    """
    places = [(b, g) for b, group in enumerate(groups) for g in range(len(group.completions))]
    size = math.ceil(len(order) / parts)
    result = []
    for first in range(0, len(order), size):
        chosen = sorted(places[i] for i in order[first : first + size])
        groups_of_part = sorted({b for b, _ in chosen})
        result.append([Piece(b, tuple(g for c, g in chosen if c == b)) for b in groups_of_part])
    return result
