"""Rewards: what a completion earns, in TRL's callable signature."""

from __future__ import annotations

from mathgrpo.rewards.catalogue import (
    CATALOGUE,
    GIST_WEIGHTS,
    MULTI_WEIGHTS,
    REFERENCE_WEIGHTS,
    REWARDS,
    SOUND,
    SOUND_WEIGHTS,
    STEP_WEIGHTS,
)
from mathgrpo.rewards.entry import Entry, Pay
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
    "Entry",
    "Pay",
    "RewardFunction",
    "RewardSuite",
    "Scores",
    "bound",
    "build_suite",
]
