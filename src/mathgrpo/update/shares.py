"""What an optimizer step computes of an update: the completions of a part, divided among the processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mathgrpo.distributed import World
from mathgrpo.types import RolloutGroup
from mathgrpo.update.fall_back import fall_back
from mathgrpo.update.forward import Passes
from mathgrpo.update.pack import Piece, micro_batch_cost
from mathgrpo.update.step import Step, Totals, merged

IMBALANCE = 1.1
"""A share this much above the mean is worth dividing a group's completions for, which repeats its prompt."""


def share_of(world: World, passes: Passes, groups: Sequence[RolloutGroup], pieces: Sequence[Piece]) -> list[Piece]:
    """Return what this process computes of the pieces."""
    return divided(groups, pieces, world.size, shared_prompt=passes.shared_prompt)[world.rank]


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


def of_part(pieces: Sequence[Piece], part: Sequence[Piece]) -> list[Piece]:
    """Return the pieces of a part of the completions, without those that have no loss."""
    wanted = {(piece.group, g) for piece in part for g in piece.completions}
    kept = [Piece(p.group, tuple(g for g in p.completions if (p.group, g) in wanted)) for p in pieces]
    return [piece for piece in kept if piece.completions]


def of_all_processes(world: World, step: Step, totals: Totals, counts: Sequence[int]) -> tuple[Totals, list[int]]:
    """Return a step's totals and counts over all processes, the same in each; its token budget becomes the smallest.

    One that ran out of memory in one process would do so again. The processes fall back together, too: layouts decide
    how they divide the work.
    """
    names = list(totals)
    values = torch.stack([totals[name] for name in names]).tolist() if names else []
    own = dict(zip(names, values, strict=True)), list(counts), step.token_budget, step.passes.plainer is None
    found = world.gather(own)
    parts = [{name: torch.tensor(value, dtype=torch.float64) for name, value in part.items()} for part, *_ in found]
    all_counts = [sum(column) for column in zip(*(row for _, row, *_ in found), strict=True)]
    step.token_budget = min(budget for _, _, budget, _ in found)
    if any(is_plain for *_, is_plain in found) and step.passes.plainer is not None:
        fall_back(step, "in another process")
    return {name: value.to(step.passes.device) for name, value in merged(parts).items()}, all_counts
