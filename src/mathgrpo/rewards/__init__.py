"""Rewards: what a completion earns, in TRL's callable signature."""

from __future__ import annotations

from mathgrpo.rewards.known_rewards import (
    CATALOGUE,
    GIST_WEIGHTS,
    MULTI_WEIGHTS,
    REFERENCE_WEIGHTS,
    REWARDS,
    SOUND,
    SOUND_WEIGHTS,
    STEP_WEIGHTS,
)
from mathgrpo.rewards.reward import Pay, Reward
from mathgrpo.rewards.signature import RewardFunction, bound
from mathgrpo.rewards.suite import RewardSuite, Scores, build_suite

__all__ = [
    "CATALOGUE",
    "GIST_WEIGHTS",
    "MULTI_WEIGHTS",
    "REFERENCE_WEIGHTS",
    "REWARDS",
    "SOUND",
    "SOUND_WEIGHTS",
    "STEP_WEIGHTS",
    "Pay",
    "Reward",
    "RewardFunction",
    "RewardSuite",
    "Scores",
    "bound",
    "build_suite",
]
