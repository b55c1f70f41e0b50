"""Rewards to an optimizer step: advantages, packed micro-batches, loss, update."""

from mathgrpo.grpo.advantages import group_advantages, with_advantages
from mathgrpo.grpo.reference import Reference, build_reference
from mathgrpo.grpo.update import NonFiniteError, UpdateStats, policy_update

__all__ = [
    "NonFiniteError",
    "Reference",
    "UpdateStats",
    "build_reference",
    "group_advantages",
    "policy_update",
    "with_advantages",
]
