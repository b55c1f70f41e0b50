"""Rollouts to an optimizer step: packed micro-batches, log-probabilities, gradient, update."""

from mathgrpo.update.lesson import Lesson, NonFiniteError, UpdateStats
from mathgrpo.update.policy_update import policy_update
from mathgrpo.update.reference_policy import Reference, build_reference
from mathgrpo.update.sampler_check import SamplerError
from mathgrpo.update.updater import Updater

__all__ = [
    "Lesson",
    "NonFiniteError",
    "Reference",
    "SamplerError",
    "UpdateStats",
    "Updater",
    "build_reference",
    "policy_update",
]
