"""Dividing a step's work between processes, and putting together what they found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mathgrpo.distributed import World
from mathgrpo.types import RolloutGroup
from mathgrpo.update.pack import Piece, micro_batch_cost

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


def summed_step(
    world: World, totals: Tensor, counts: Sequence[int], token_budget: int
) -> tuple[Tensor, list[int], int]:
    """Return a step's totals over all processes: (totals, counts, token budget).

    totals: sums, the last two maxima, as `step_gradient` gives them. counts: [micro-batches, tokens]. The token
    budget is the smallest: one that ran out of memory in one process would do so again.
    """
    if world.size == 1:
        return totals, list(counts), token_budget
    sums = totals[:-2].clone()
    world.sum_(sums)
    found = world.gather((totals[-2:].tolist(), list(counts), token_budget))
    largest = torch.tensor([values for values, _, _ in found], dtype=totals.dtype, device=totals.device).amax(dim=0)
    all_counts = [sum(column) for column in zip(*(row for _, row, _ in found), strict=True)]
    return torch.cat([sums, largest]), all_counts, min(budget for _, _, budget in found)
