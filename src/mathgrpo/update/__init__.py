"""Rollouts to an optimizer step: packed micro-batches, log-probabilities, gradient, update."""

from mathgrpo.update.policy_update import NonFiniteError, UpdateStats, policy_update
from mathgrpo.update.reference_policy import Reference, build_reference

__all__ = ["NonFiniteError", "Reference", "UpdateStats", "build_reference", "policy_update"]
