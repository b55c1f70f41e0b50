"""Named numbers of an optimizer step. The name says how many become one: ".../max", ".../min", anything else a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mathgrpo.distributed import World

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
