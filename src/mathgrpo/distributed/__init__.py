"""Several processes that train together, one a device: what they exchange, how they start, how they end.

`World` is what the rest of the package sees: the rank, the number of processes, a few collective operations. A run of
one process has `SINGLE`, for which each of them is the identity.
"""

from mathgrpo.distributed.follow import FollowMain, PeerLost
from mathgrpo.distributed.join import Job, job_of_environment, join_world
from mathgrpo.distributed.world import SINGLE, World

__all__ = ["SINGLE", "FollowMain", "Job", "PeerLost", "World", "job_of_environment", "join_world"]
