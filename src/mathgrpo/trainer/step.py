"""One rollout and what is learnt from it: prompts, completions, rewards, advantages, update."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo import Reference, UpdateStats, policy_update
from mathgrpo.models import Policy
from mathgrpo.rollout import Engine
from mathgrpo.trainer.config import GRPOConfig
from mathgrpo.trainer.dataset import Row, encode
from mathgrpo.trainer.metrics import Metrics, rollout_metrics, update_metrics
from mathgrpo.trainer.rewards import RewardFunctions
from mathgrpo.trainer.scoring import Scored, score
from mathgrpo.training.batches import counted_seed
from mathgrpo.types import Sampling


@dataclass(slots=True)
class Machinery:
    """What takes a step: the policy, the engine that samples from it, its reference and its rewards."""

    policy: Policy
    engine: Engine
    reference: Reference | None
    rewards: RewardFunctions
    args: GRPOConfig

    def rollout(self, rows: Sequence[Row], keys: Sequence[int], group_size: int, purpose: str, state: Any) -> Scored:
        """Return group_size rewarded completions of each row's prompt.

        keys: the row numbers; with `purpose` ("rollout/7") and the seed they name the noise, so that a resumed run
            draws the same.
        """
        args = self.args
        prompts = [encode(self.policy.tokenizer, row["prompt"], args, key) for row, key in zip(rows, keys, strict=True)]
        sampling = Sampling(
            max_new_tokens=args.max_completion_length, temperature=args.temperature, top_p=args.top_p,
            top_k=args.top_k or 0, min_p=args.min_p or 0.0, seed=counted_seed(args.seed, purpose, 0),
        )  # fmt: skip
        drawn = self.engine.generate(prompts, group_size, sampling)
        return score(self.policy.tokenizer, rows, prompts, drawn, self.rewards, args, state)

    def update(
        self, scored: Scored, optimizer: torch.optim.Optimizer, *, updates: int, rollout: int, token_budget: int | None
    ) -> UpdateStats:
        """Take `updates` optimizer steps on a rollout.

        Raises: NonFiniteError before the weights change.
        """
        args = self.args
        devices = [torch.cuda.current_device()] if self.policy.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            # Only adapter dropout draws here. Forked, so that reward functions keep their own random numbers.
            torch.manual_seed(counted_seed(args.seed, "update", rollout))
            return policy_update(
                self.policy, optimizer, scored.groups, grpo_section(args, updates), temperature=args.temperature,
                max_new_tokens=args.max_completion_length, max_grad_norm=args.max_grad_norm or float("inf"),
                reference=self.reference, token_budget=token_budget,
            )  # fmt: skip

    def metrics_of(self, scored: Scored) -> Metrics:
        """Return the metrics of a rollout's lengths and rewards."""
        return rollout_metrics(scored, self.rewards.weights, str(self.args.scale_rewards))


def grpo_section(args: GRPOConfig, updates: int) -> GrpoSection:
    """Return the loss settings of an update; advantages are computed before it."""
    return GrpoSection.model_validate(
        {
            "loss": args.loss_type, "epsilon_low": float(args.epsilon), "beta": float(args.beta),
            "epsilon_high": float(args.epsilon if args.epsilon_high is None else args.epsilon_high),
            "updates_per_rollout": updates, "mask_truncated": bool(args.mask_truncated_completions),
        }
    )  # fmt: skip


def step_metrics(stats: UpdateStats, started: float, updates: int) -> Metrics:
    """Return the metrics of an update, with the seconds of one optimizer step, its share of the rollout included."""
    return update_metrics(stats) | {"step_time": (time.perf_counter() - started) / updates}
