"""Rewards: what a completion earns, in TRL's callable signature."""

from __future__ import annotations

from mathgrpo.rewards.checked_calls import RewardFunction, bound
from mathgrpo.rewards.reward import (
    CATALOGUE,
    GIST_WEIGHTS,
    MULTI_WEIGHTS,
    REFERENCE_WEIGHTS,
    REWARDS,
    SOUND,
    SOUND_WEIGHTS,
    STEP_WEIGHTS,
    Pay,
    Reward,
)
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
