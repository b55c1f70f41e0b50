"""What a run does when a step's completions were not drawn from its policy: never learn from them."""

from __future__ import annotations

from collections.abc import Sequence

from mathgrpo.distributed import FollowMain
from mathgrpo.errors import UserError, named
from mathgrpo.runs.hook import Run
from mathgrpo.types import RolloutGroup
from mathgrpo.update import SamplerError


def fall_back_or_stop(run: Run, groups: Sequence[RolloutGroup], error: SamplerError) -> None:
    """Have the engine decode with the model's own forward pass, so that the step is drawn again.

    Raises: UserError where that is what it did, or it cannot, after saving the last good weights and the batch.
    """
    number, engine = run.task.done(run.step) + 1, run.engine.reason
    if run.engine.fall_back(f"in step {number} {error}"):
        run.note(run.engine.notes)
        return
    if not run.world.is_main:
        raise FollowMain(str(error)) from error
    kept = "".join(f"; {place}" for place in run.keep(groups))
    remedy = "report it" if run.engine.name != "vllm" else f"use {named('rollout.vllm', 'none')}"
    raise UserError(
        f"step {number}: {error}, so they were not drawn from it and nothing was learnt from them (rollout engine "
        f"{run.engine.name}: {engine}){kept}; {remedy}"
    ) from error
