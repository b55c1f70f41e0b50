"""Log-probabilities that are wanted before a gradient: old ones, the reference's, those of whole completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mathgrpo.errors import first_line
from mathgrpo.models.policy import resting
from mathgrpo.update.fall_back import fall_back, is_of_layout
from mathgrpo.update.forward import Forward
from mathgrpo.update.logprobs import chunk_rows, token_logprobs
from mathgrpo.update.pack import MicroBatch
from mathgrpo.update.step import Step, Totals


def fill_old_logprobs(step: Step) -> None:
    """Write the log-probabilities of all the step's pieces into tokens.old_M: a forward pass of the policy as it is.

    The model is in evaluation mode: adapter dropout would make it another policy than the one that sampled. Where the
    step's passes fail or give no finite numbers, the plain ones write them.
    """
    try:
        _fill_old_logprobs(step)
        failure = "" if bool(step.tokens.old_M.isfinite().all()) else "log-probabilities are not finite"
    except Exception as error:
        if not is_of_layout(error, step):
            raise
        failure = f"{type(error).__name__}: {first_line(error)}"
    if failure and step.passes.plainer is not None:
        fall_back(step, failure)
        _fill_old_logprobs(step)


@torch.no_grad()
def _fill_old_logprobs(step: Step) -> None:
    forward = step.passes.forward
    forward.refresh()
    with step.passes.attending(), resting(step.passes.model):
        for pieces in step.plan():
            batch = step.micro_batch(pieces)
            step.tokens.old_M.index_copy_(0, batch.token_index, _all_logprobs(step, forward, batch))
    step.old_known = step.is_fresh = True


@torch.no_grad()
def ref_logprobs(step: Step, reference: Forward, batch: MicroBatch) -> Tensor:
    """Return the reference's log-probabilities of the micro-batch's completion tokens, at the policy's temperature."""
    with step.passes.as_reference():
        return _all_logprobs(step, reference, batch)


def _all_logprobs(step: Step, forward: Forward, batch: MicroBatch) -> Tensor:
    logprobs_N, _ = chunked_logprobs(forward.hidden(batch), batch.targets, forward.head, step.temperature)
    return logprobs_N[: len(batch.token_index)]


def drops_out(model: Any) -> bool:
    """Return whether the model's forward pass in an update draws random numbers: adapter dropout that is on."""
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Dropout))
    return any("lora_dropout" in name and module.p > 0.0 for name, module in named)


def slopes(step: Step, batch: MicroBatch, leaf_NF: Tensor, *, first: bool) -> tuple[Tensor, Totals]:
    """Return d loss / d log-probability of every token of a micro-batch, without the entropy bonus, and its totals.

    A completion is never divided between micro-batches, so what it needs of its other tokens is here.
    """
    rows = slice(0, len(batch.token_index))
    with torch.no_grad():
        logprobs_N, entropy_N = chunked_logprobs(
            leaf_NF[rows], batch.targets[rows], step.passes.forward.head, step.temperature
        )
    logprobs_N.requires_grad_()
    loss, totals = step.loss(batch.token_index, logprobs_N, entropy_N, lengths=batch.lengths, first=first)
    return torch.autograd.grad(loss, logprobs_N)[0], totals


def chunked_logprobs(
    hidden_NF: Tensor, targets_N: Tensor, head: Callable[[Tensor], Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """Return (token_logprobs_N, entropy_N), computing the logits chunk by chunk.

    Without gradients no more than a chunk of logits is held. With them, take `chunk_rows` and run a chunk's backward
    pass before the next chunk's forward pass, as the update does.

    head: hidden states -> logits; called as it is, so tied weights, adapters and quantised layers all work.
    """
    with torch.no_grad():
        vocab_size = head(hidden_NF[:1]).shape[-1]
    logprobs, entropies = [], []
    for rows in chunk_rows(len(hidden_NF), vocab_size, hidden_NF.device):
        result = token_logprobs(head(hidden_NF[rows]), targets_N[rows], temperature)
        logprobs.append(result[0])
        entropies.append(result[1])
    return torch.cat(logprobs), torch.cat(entropies)
