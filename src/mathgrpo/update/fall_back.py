"""What an update does when a fast way to compute fails in the middle of a run: the same step again, plainly."""

from __future__ import annotations

from mathgrpo.distributed.world import FollowMain, PeerLost
from mathgrpo.errors import UserError
from mathgrpo.hardware.cuda_care import is_device_lost, is_out_of_memory, release_memory
from mathgrpo.update.step import Step


def is_of_layout(error: Exception, step: Step) -> bool:
    """Return whether plainer passes may do what this failure kept the step's from.

    Not where it is the user's, a lack of memory, a lost device or process, or the plain passes' own.
    """
    elsewhere = isinstance(error, UserError | PeerLost | FollowMain)
    return step.passes.plainer is not None and not (elsewhere or is_out_of_memory(error) or is_device_lost(error))


def fall_back(step: Step, failure: str) -> None:
    """Give the step the plain passes, whose notes say what failed; nothing of it must have changed the weights yet."""
    passes = step.passes
    assert passes.plainer is not None
    plain = passes.plainer()
    way = "packed attention" if passes.packed else "fused forward pass"
    plain.notes = (*passes.notes, f"the update's {way} failed ({failure}); from this step on it computes plainly")
    step.passes, step.is_fresh = plain, False
    release_memory()
