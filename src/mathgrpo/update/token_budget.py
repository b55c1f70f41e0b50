"""What an update does when memory runs out: the same step again, in smaller micro-batches."""

from __future__ import annotations

from mathgrpo.errors import UserError
from mathgrpo.hardware.cuda_care import release_memory
from mathgrpo.update.pack import micro_batch_cost
from mathgrpo.update.step import Step


def halve_budget(step: Step, failure: str) -> None:
    """Halve the largest micro-batch, and give unused memory back.

    Raises: UserError when it can no longer be made smaller.
    """
    plan = step.plan()
    if all(len(pieces) == 1 and len(pieces[0].completions) == 1 for pieces in plan):
        raise UserError(
            f"{step.token_budget:,} tokens a micro-batch: out of memory with one completion at a time "
            f"({failure}); use a smaller model, LoRA, or a lower rollout.max_new_tokens"
        )
    # A budget far above what the step holds would take several halvings to change anything.
    costs = [micro_batch_cost(step.groups, pieces, shared_prompt=step.passes.shared_prompt) for pieces in plan]
    step.token_budget = max(1, min(step.token_budget, max(costs)) // 2)
    release_memory()
