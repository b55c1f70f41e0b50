"""Rewards: what a completion earns, in TRL's callable signature."""

from __future__ import annotations

from mathgrpo.rewards.checked_calls import RewardFunction, bound
from mathgrpo.rewards.make_suite import build_suite, recipe_suite
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.reward import Pay, Reward
from mathgrpo.rewards.suite import RewardSuite, Scores

REWARDS = CATALOGUE
"""The built-in rewards as functions in TRL's signature, by name."""

__all__ = [
    "CATALOGUE",
    "REWARDS",
    "Pay",
    "Reward",
    "RewardFunction",
    "RewardSuite",
    "Scores",
    "bound",
    "build_suite",
    "recipe_suite",
]
