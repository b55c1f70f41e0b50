"""Batches by length: every sequence once, no more padding than the budget, results in the given order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mathgrpo.rollout.decoder import batches_by_length, in_batches


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 200))
def test_batches_hold_every_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = batches_by_length(lengths, budget)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= budget
    longest = [max(lengths[number] for number in batch) for batch in batches]
    assert longest == sorted(longest)
    rows = in_batches(lengths, budget, lambda batch: torch.tensor(batch)[:, None])
    assert rows.flatten().tolist() == list(range(len(lengths)))
