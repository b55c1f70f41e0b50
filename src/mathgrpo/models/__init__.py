"""Models: from a name in a recipe to a policy ready to sample and train."""

from mathgrpo.models.device import resolve_device
from mathgrpo.models.load import load_policy, policy_from
from mathgrpo.models.policy import Policy
from mathgrpo.models.sources import starter_path

__all__ = ["Policy", "load_policy", "policy_from", "resolve_device", "starter_path"]
