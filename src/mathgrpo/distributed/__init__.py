"""Several processes that train together, one a device: what they exchange, how they start, how they end."""

from mathgrpo.distributed.processes import Job, job_of_environment, join_world, require_devices
from mathgrpo.distributed.world import SINGLE, FollowMain, PeerLost, World

__all__ = ["SINGLE", "FollowMain", "Job", "PeerLost", "World", "job_of_environment", "join_world", "require_devices"]
