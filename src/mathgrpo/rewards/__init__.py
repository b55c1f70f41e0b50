"""Rewards: what a completion earns, in TRL's callable signature."""

from __future__ import annotations

from mathgrpo.rewards.catalogue import REFERENCE_WEIGHTS, REWARDS, SOUND, SOUND_WEIGHTS
from mathgrpo.rewards.signature import RewardFunction, bound
from mathgrpo.rewards.suite import RewardSuite, Scores, build_suite

__all__ = [
    "REFERENCE_WEIGHTS",
    "REWARDS",
    "SOUND",
    "SOUND_WEIGHTS",
    "RewardFunction",
    "RewardSuite",
    "Scores",
    "bound",
    "build_suite",
]
