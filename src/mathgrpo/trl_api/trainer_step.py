"""One rollout and what is learnt from it: prompts, completions, rewards, advantages, update."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo.objectives import COMMON, OBJECTIVES
from mathgrpo.models import Policy
from mathgrpo.rollout import Engine
from mathgrpo.rollout.outside import engine_metrics, make_room
from mathgrpo.training.step_order import counted_seed
from mathgrpo.trl_api.copies import ComputeCopies
from mathgrpo.trl_api.dataset import Row, encode, require_context
from mathgrpo.trl_api.grpo_config import GRPOConfig
from mathgrpo.trl_api.reward_functions import RewardFunctions
from mathgrpo.trl_api.scoring import Scored, score
from mathgrpo.trl_api.trl_metrics import Metrics, rollout_metrics, update_metrics
from mathgrpo.trl_api.vllm_arguments import importance_of
from mathgrpo.types import RolloutGroup, Sampling
from mathgrpo.update import Reference, UpdateStats, policy_update
from mathgrpo.update.modes import recomputed_layers
from mathgrpo.update.pack import Piece


@dataclass(slots=True)
class Machinery:
    """What takes a step: the policy, the engine that samples from it, its reference and its rewards.

    Attributes:
        copies: the compute copies of the optimizer that trains it; None before it is made.
        recompute: layers are computed again in the backward pass.
        engine_metrics: what an engine outside measured in the last rollout.
    """

    policy: Policy
    engine: Engine
    reference: Reference | None
    rewards: RewardFunctions
    args: GRPOConfig
    copies: ComputeCopies | None = None
    recompute: bool = False
    engine_metrics: dict[str, float] = field(default_factory=dict)

    def rollout(self, rows: Sequence[Row], keys: Sequence[int], group_size: int, purpose: str, state: Any) -> Scored:
        """Return group_size rewarded completions of each row's prompt.

        keys: the row numbers; with `purpose` ("rollout/7") and the seed they name the noise, so that a resumed run
            draws the same.
        """
        args = self.args
        prompts = [encode(self.policy.tokenizer, row["prompt"], args, key) for row, key in zip(rows, keys, strict=True)]
        require_context(prompts, self.policy.max_context, args)
        sampling = Sampling(
            max_new_tokens=args.max_completion_length, temperature=args.temperature, top_p=args.top_p,
            top_k=args.top_k or 0, min_p=args.min_p or 0.0, seed=counted_seed(args.seed, purpose, 0),
        )  # fmt: skip
        with self._computing():
            drawn = self.engine.generate(prompts, group_size, sampling)
        self.engine_metrics = engine_metrics(self.engine)
        make_room(self.engine)
        return score(self.policy.tokenizer, rows, prompts, drawn, self.rewards, args, state)

    def update(
        self, scored: Scored, optimizer: torch.optim.Optimizer, *, updates: int, rollout: int, token_budget: int | None
    ) -> UpdateStats:
        """Take `updates` optimizer steps on a rollout, each on its part of the completions.

        Raises: NonFiniteError before the weights change.
        """
        args = self.args
        devices = [torch.cuda.current_device()] if self.policy.device.startswith("cuda") else []
        order = completion_order(scored.groups, counted_seed(args.seed, "parts", rollout))
        parts = divided(scored.groups, order, args.parts_per_rollout) if args.parts_per_rollout > 1 else ()
        recomputed = recomputed_layers(self.policy.model, self.recompute)
        with torch.random.fork_rng(devices=devices), self._computing(), recomputed:
            # Only adapter dropout draws here. Forked, so that reward functions keep their own random numbers.
            torch.manual_seed(counted_seed(args.seed, "update", rollout))
            return policy_update(
                self.policy, optimizer, scored.groups, grpo_section(args, updates), temperature=args.temperature,
                max_new_tokens=args.max_completion_length, max_grad_norm=args.max_grad_norm or float("inf"),
                reference=self.reference, token_budget=token_budget, parts=parts,
                importance=importance_of(args),
            )  # fmt: skip

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Have the model compute with the optimizer's compute copies, where it has any."""
        if self.copies is None:
            yield
            return
        with self.copies.in_place():
            yield

    def metrics_of(self, scored: Scored) -> Metrics:
        """Return the metrics of a rollout's lengths and rewards."""
        return rollout_metrics(scored, self.rewards.weights, str(self.args.scale_rewards))


def grpo_section(args: GRPOConfig, updates: int) -> GrpoSection:
    """Return the loss settings of an update; advantages are computed before it."""
    section = GrpoSection.model_validate(
        {
            "loss": args.loss_type, "loss_settings": loss_settings(args), "beta": float(args.beta),
            "epsilon_high": float(args.epsilon if args.epsilon_high is None else args.epsilon_high),
            "updates_per_rollout": updates, "mask_truncated": bool(args.mask_truncated_completions),
            "importance": "off",
        }
    )  # fmt: skip
    # Past the recipe's own bound of 1: DeepSeek-R1 trains with 10, which never binds from below.
    return section.model_copy(update={"epsilon_low": float(args.epsilon)})


def loss_settings(args: GRPOConfig) -> dict[str, float]:
    """Return those of a script's settings that its loss takes; TRL passes over the rest too."""
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    given = {
        "delta": args.delta, "epsilon_max": high, "sapo_temperature_pos": args.sapo_temperature_pos,
        "sapo_temperature_neg": args.sapo_temperature_neg, "entropy_coef": args.entropy_coef,
        "sequence_ratio": args.importance_sampling_level == "sequence",
    }  # fmt: skip
    takes = (*OBJECTIVES[args.loss_type].settings, *COMMON)
    return {name: float(value) for name, value in given.items() if name in takes and value is not None}


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


def step_metrics(stats: UpdateStats, started: float, updates: int) -> Metrics:
    """Return the metrics of an update, with the seconds of one optimizer step, its share of the rollout included."""
    return update_metrics(stats) | {"step_time": (time.perf_counter() - started) / updates}
