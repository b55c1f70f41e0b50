"""The gradient of one optimizer step: micro-batches forward and backward, chunk by chunk of logits."""

from __future__ import annotations

import torch

from mathgrpo.errors import first_line
from mathgrpo.hardware.cuda_care import is_out_of_memory
from mathgrpo.update.fall_back import fall_back, is_of_layout
from mathgrpo.update.first_pass import ref_logprobs, slopes
from mathgrpo.update.logprobs import chunk_rows, token_logprobs
from mathgrpo.update.pack import MicroBatch
from mathgrpo.update.step import Step, Totals, merged
from mathgrpo.update.token_budget import halve_budget


def step_gradient(step: Step, optimizer: torch.optim.Optimizer, *, first: bool) -> tuple[Totals, list[int]]:
    """Leave the gradient of the whole step in the parameters; return its totals and [micro-batches, tokens].

    Out of memory: the token budget is halved and the step begun again. Micro-batches do not change the gradient. Any
    other failure: the step is begun again in the plain layout, whose failure is raised.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            with step.passes.attending():
                return _accumulate(step, first=first)
        except Exception as error:
            lacks_memory = is_out_of_memory(error) and step.token_budget > 1
            if not (lacks_memory or is_of_layout(error, step)):
                raise
            kind, failure = type(error).__name__, first_line(error)
        # Outside the except block: the traceback held the failed pass's tensors until here.
        optimizer.zero_grad(set_to_none=True)
        if lacks_memory:
            halve_budget(step, failure)
        else:
            fall_back(step, f"{kind}: {failure}")


def _accumulate(step: Step, *, first: bool) -> tuple[Totals, list[int]]:
    """Run forward and backward over all micro-batches."""
    plan, found, num_tokens = step.plan(), [], 0
    reference = step.passes.reference if first else None
    if not step.is_fresh:
        step.passes.forward.refresh()
    step.is_fresh = False
    if reference is not None:
        reference.refresh()
    for pieces in plan:
        batch = step.micro_batch(pieces)
        if reference is not None:
            step.tokens.ref_M.index_copy_(0, batch.token_index, ref_logprobs(step, reference, batch))
        found.append(_micro_batch_backward(step, batch, first=first))
        num_tokens += batch.num_unique
    if reference is not None:
        reference.finish()
    step.passes.forward.finish()
    return merged(found), [len(plan), num_tokens]


def _micro_batch_backward(step: Step, batch: MicroBatch, *, first: bool) -> Totals:
    """Run a micro-batch forward and backward; return its totals.

    The loss is a sum over tokens, so each chunk of logits has its backward pass at once, down to the hidden states,
    and is gone before the next; the transformer's own backward pass follows when all of them have their gradient.
    Where a token's loss depends on its whole completion, the head runs over the kept hidden states once before, for
    the log-probabilities alone, and each chunk's loss is the linear one with the slopes that the loss has there.
    """
    forward = step.passes.forward
    hidden_NF = forward.hidden(batch)
    leaf_NF = hidden_NF.detach().requires_grad_()
    slopes_N, found = None, []
    if step.objective.needs_whole_completions:
        slopes_N, totals = slopes(step, batch, leaf_NF, first=first)
        found.append(totals)
    for rows in chunk_rows(len(batch.token_index), step.passes.vocab_size, leaf_NF.device):
        logits = forward.head(leaf_NF[rows])
        logprobs_N, entropy_N = token_logprobs(
            logits, batch.targets[rows], step.temperature, entropy_gradient=step.entropy_weight != 0.0
        )
        del logits
        if slopes_N is None:
            loss, totals = step.loss(batch.token_index[rows], logprobs_N, entropy_N, first=first)
            found.append(totals)
        else:
            loss = (slopes_N[rows] * logprobs_N).sum()
        if step.entropy_weight:
            loss = loss - step.entropy_weight * entropy_N.sum()
        torch.autograd.backward(loss)
    torch.autograd.backward(hidden_NF, leaf_NF.grad)
    return merged(found)
