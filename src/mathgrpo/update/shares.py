"""Dividing a step's work between processes."""

from __future__ import annotations

from collections.abc import Sequence

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
