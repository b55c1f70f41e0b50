"""Sequences of unequal lengths in batches that hold little padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the numbers of sequences in batches, the shortest first, of at most max_tokens with padding, or of one.

    Example:
        >>> batches_by_length([5, 1, 4, 9], 10)
        [[1, 2], [0], [3]]
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[number] <= max_tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def in_order(parts: Sequence[Tensor], batches: Sequence[Sequence[int]]) -> Tensor:
    """Return what was computed batch by batch, a row each sequence, in the order of the sequences."""
    rows = torch.cat(list(parts))
    numbers = torch.tensor([number for batch in batches for number in batch])
    return rows.index_select(0, numbers.argsort().to(rows.device))
