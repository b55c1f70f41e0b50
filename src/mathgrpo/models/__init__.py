"""Models: from a name in a recipe to a policy ready to sample and train."""

from mathgrpo.models.load_policy import load_policy, policy_from, resolve_device
from mathgrpo.models.locate import starter_path
from mathgrpo.models.policy import Policy

__all__ = ["Policy", "load_policy", "policy_from", "resolve_device", "starter_path"]
