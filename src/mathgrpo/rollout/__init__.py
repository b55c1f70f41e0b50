"""Rollout: prompts in, groups of completions with sampling log-probabilities out."""

from mathgrpo.rollout.choose_engine import build_decoder, build_engine
from mathgrpo.rollout.engine import Engine
from mathgrpo.rollout.groups import completion_text, reward_groups, sample_groups

__all__ = [
    "Engine",
    "build_decoder",
    "build_engine",
    "completion_text",
    "reward_groups",
    "sample_groups",
]
