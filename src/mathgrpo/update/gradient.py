"""The gradient of one optimizer step: micro-batches forward and backward, chunk by chunk of logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mathgrpo.distributed import World
from mathgrpo.errors import UserError, first_line
from mathgrpo.grpo.objectives import Tokens
from mathgrpo.hardware.cuda_care import is_out_of_memory, release_memory
from mathgrpo.models.policy import resting
from mathgrpo.types import RolloutGroup
from mathgrpo.update.logprobs import chunk_rows, chunked_logprobs, split_model, token_logprobs
from mathgrpo.update.pack import MicroBatch, Piece, micro_batch_cost
from mathgrpo.update.step_setup import Step


def step_gradient(step: Step, optimizer: torch.optim.Optimizer, *, first: bool) -> tuple[Totals, list[int]]:
    """Leave the gradient of the whole step in the parameters; return its totals and [micro-batches, tokens].

    Out of memory: the token budget is halved and the step begun again. Micro-batches do not change the gradient.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        failure = ""
        try:
            return _accumulate(step, first=first)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or step.token_budget <= 1:
                raise
            failure = first_line(error)
        # Outside the except block: the traceback held the failed pass's tensors until here.
        optimizer.zero_grad(set_to_none=True)
        _halve_budget(step, failure)
        release_memory()


def _halve_budget(step: Step, failure: str) -> None:
    """Halve the largest micro-batch; end the run clearly when it can no longer be made smaller."""
    plan = step.plan()
    if all(len(pieces) == 1 and len(pieces[0].completions) == 1 for pieces in plan):
        raise UserError(
            f"{step.token_budget:,} tokens a micro-batch: out of memory with one completion at a time "
            f"({failure}); use a smaller model, LoRA, or a lower rollout.max_new_tokens"
        )
    # A budget far above what the step holds would take several halvings to change anything.
    costs = [micro_batch_cost(step.groups, pieces, shared_prompt=step.shared_prompt) for pieces in plan]
    step.token_budget = max(1, min(step.token_budget, max(costs)) // 2)


def _accumulate(step: Step, *, first: bool) -> tuple[Totals, list[int]]:
    """Run forward and backward over all micro-batches."""
    plan, found, num_tokens = step.plan(), [], 0
    step.forward.refresh()
    for pieces in plan:
        batch = step.micro_batch(pieces)
        found.append(_micro_batch_backward(step, batch, first=first))
        num_tokens += batch.num_unique
    step.forward.finish()
    return merged(found), [len(plan), num_tokens]


def _micro_batch_backward(step: Step, batch: MicroBatch, *, first: bool) -> Totals:
    """Run a micro-batch forward and backward; return its totals.

    The loss is a sum over tokens, so each chunk of logits has its backward pass at once, down to the hidden states,
    and is gone before the next; the transformer's own backward pass follows when all of them have their gradient.
    Where a token's loss depends on its whole completion, the head runs over the kept hidden states once before, for
    the log-probabilities alone, and each chunk's loss is the linear one with the slopes that the loss has there.
    """
    if first and step.reference is not None and step.reference_forward is not None:
        ref_logprobs_N = step.reference.ref_logprobs(step.reference_forward, batch, step.temperature)
        step.ref_logprobs_M.index_copy_(0, batch.token_index, ref_logprobs_N)
    with step.forward.context():
        hidden_NF = step.forward.hidden(batch)
    leaf_NF = hidden_NF.detach().requires_grad_()
    head, vocab_size = step.forward.head, split_model(step.policy.model)[0].config.get_text_config().vocab_size
    slopes_N, found = None, []
    if step.objective.needs_whole_completions:
        slopes_N, totals = _slopes(step, batch, leaf_NF, first=first)
        found.append(totals)
    for rows in chunk_rows(len(batch.token_index), vocab_size, leaf_NF.device):
        with step.forward.context():
            logits = head(leaf_NF[rows])
        logprobs_N, entropy_N = token_logprobs(
            logits, batch.targets[rows], step.temperature, entropy_gradient=step.entropy_weight != 0.0
        )
        del logits
        if slopes_N is None:
            loss, totals = _token_loss(step, batch.token_index[rows], logprobs_N, entropy_N, first=first)
            found.append(totals)
        else:
            loss = (slopes_N[rows] * logprobs_N).sum()
        if step.entropy_weight:
            loss = loss - step.entropy_weight * entropy_N.sum()
        torch.autograd.backward(loss)
    torch.autograd.backward(hidden_NF, leaf_NF.grad)
    return merged(found)


def _slopes(step: Step, batch: MicroBatch, leaf_NF: Tensor, *, first: bool) -> tuple[Tensor, Totals]:
    """Return d loss / d log-probability of every token of a micro-batch, without the entropy bonus, and its totals.

    A completion is never divided between micro-batches, so what it needs of its other tokens is here.
    """
    rows = slice(0, len(batch.token_index))
    with torch.no_grad(), step.forward.context():
        logprobs_N, entropy_N = chunked_logprobs(
            leaf_NF[rows], batch.targets[rows], step.forward.head, step.temperature
        )
    logprobs_N.requires_grad_()
    loss, totals = _token_loss(step, batch.token_index, logprobs_N, entropy_N, lengths=batch.lengths, first=first)
    return torch.autograd.grad(loss, logprobs_N)[0], totals


def _token_loss(
    step: Step, index: Tensor, logprobs_N: Tensor, entropy_N: Tensor, *, lengths: tuple[int, ...] = (), first: bool
) -> tuple[Tensor, Totals]:
    """Return these tokens' share of the loss, without the entropy bonus, and their totals, which have it.

    index: [N] positions of the tokens in the step's flat order. lengths: of whole completions, () for a chunk.
    """
    if first and not step.old_known:
        step.old_logprobs_M.index_copy_(0, index, logprobs_N.detach())
    sampling_N = step.tokens.sampling_logprobs_M[index]
    old_N, ref_N, advantages_N = step.old_logprobs_M[index], step.ref_logprobs_M[index], step.tokens.advantages_M[index]
    losses_N, named = step.objective.losses(Tokens(logprobs_N, old_N, ref_N, sampling_N, advantages_N, lengths))
    loss = (step.tokens.weights_M[index] * losses_N).sum()
    with torch.no_grad():
        difference_N = (logprobs_N - sampling_N).abs()
        named |= {f"sampling/logprob_difference/{what}": difference_N for what in ("mean", "max")}
        totals = {name: _of_completions(step, name, values_N, lengths) for name, values_N in named.items()}
        totals |= {"loss": loss.double(), "entropy": total("entropy", entropy_N)}
        if step.entropy_weight:
            totals["loss"] = totals["loss"] - step.entropy_weight * totals["entropy"]
    return loss, totals


def _of_completions(step: Step, name: str, values_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the total of a metric, in which a completion counts once if it has one value for all its tokens."""
    if not step.objective.counts_completions(name):
        return total(name, values_N)
    return total(name, torch.stack([part[0] for part in values_N.split(list(lengths))]))


@torch.no_grad()
def fill_old_logprobs(step: Step) -> None:
    """Write the log-probabilities of all the step's pieces into old_logprobs_M: a forward pass of the policy as it is.

    The model is in evaluation mode: adapter dropout would make it another policy than the one that sampled.
    """
    step.forward.refresh()
    with resting(step.policy.model):
        for pieces in step.plan():
            batch = step.micro_batch(pieces)
            with step.forward.context():
                hidden_NF = step.forward.hidden(batch)
                logprobs_N, _ = chunked_logprobs(hidden_NF, batch.targets, step.forward.head, step.temperature)
            step.old_logprobs_M.index_copy_(0, batch.token_index, logprobs_N[: len(batch.token_index)])
    step.old_known = True


IMBALANCE = 1.1
"""A share this much above the mean is worth dividing a group's completions for, which repeats its prompt."""


def divided(
    groups: Sequence[RolloutGroup], pieces: Sequence[Piece], size: int, *, shared_prompt: bool
) -> list[list[Piece]]:
    """Return the pieces in `size` shares of about equally many tokens; the same in every process.

    Longest first, each to the share that has least (Graham 1969: at most 4/3 of the best there is). While one share
    is clearly above the mean, its largest group is halved.
    """
    parts = list(pieces)
    while True:
        costs = [micro_batch_cost(groups, [piece], shared_prompt=shared_prompt) for piece in parts]
        shares: list[list[int]] = [[] for _ in range(size)]
        loads = [0] * size
        for i in sorted(range(len(parts)), key=lambda i: (-costs[i], parts[i].group, parts[i].completions)):
            least = loads.index(min(loads))
            shares[least].append(i)
            loads[least] += costs[i]
        fullest = loads.index(max(loads))
        largest = max(shares[fullest], key=lambda i: costs[i], default=None)
        if largest is None or max(loads) * size <= IMBALANCE * sum(loads) or len(parts[largest].completions) < 2:
            return [
                [parts[i] for i in sorted(share, key=lambda i: (parts[i].group, parts[i].completions))]
                for share in shares
            ]
        piece = parts.pop(largest)
        half = len(piece.completions) // 2
        parts += [Piece(piece.group, piece.completions[:half]), Piece(piece.group, piece.completions[half:])]


Totals = dict[str, Tensor]
"""Name -> a float64 number on the device, still without a wait for it."""


def total(name: str, values: Tensor) -> Tensor:
    """Return one number for many: their largest, their smallest, or their sum.

    Example:
        >>> total("importance/max", torch.tensor([1.0, 2.0])).item(), total("kl", torch.tensor([1.0, 2.0])).item()
        (2.0, 3.0)
    """
    if name.endswith("/max"):
        return values.max().double()
    return values.min().double() if name.endswith("/min") else values.sum().double()


def merged(found: Sequence[Mapping[str, Tensor]]) -> Totals:
    """Return the totals of parts as those of the whole; a part may lack names, when it computed nothing."""
    names = dict.fromkeys(name for totals in found for name in totals)
    return {name: total(name, torch.stack([part[name] for part in found if name in part])) for name in names}


def of_all_processes(
    world: World, totals: Totals, counts: Sequence[int], token_budget: int, device: torch.device | str
) -> tuple[Totals, list[int], int]:
    """Return a step's totals, counts and token budget over all processes, the same in each.

    The budget is the smallest: one that ran out of memory in one process would do so again.
    """
    if world.size == 1:
        return totals, list(counts), token_budget
    names = list(totals)
    values = torch.stack([totals[name] for name in names]).tolist() if names else []
    found = world.gather((dict(zip(names, values, strict=True)), list(counts), token_budget))
    parts = [{name: torch.tensor(value, dtype=torch.float64) for name, value in part.items()} for part, _, _ in found]
    all_counts = [sum(column) for column in zip(*(row for _, row, _ in found), strict=True)]
    together = {name: value.to(device) for name, value in merged(parts).items()}
    return together, all_counts, min(budget for _, _, budget in found)
