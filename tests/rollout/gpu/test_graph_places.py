"""Memory ranges, buckets and the state of places: what the host keeps and what the device is told."""

from __future__ import annotations

import random

import torch

from mathgrpo.rollout.cuda.graph_rollout import FlagPoll
from mathgrpo.rollout.cuda.places import BUCKETS, NEW, PlaceTable, Ranges, Row, TokenPool, bucket_of, reach_of, tiles_of


def test_buckets_hold_every_batch_and_none_is_larger_than_it_must_be() -> None:
    for rows in range(1, BUCKETS[-1] + 1):
        bucket = bucket_of(rows)
        assert bucket >= rows and all(smaller < rows for smaller in BUCKETS if smaller < bucket)
    assert [reach_of(n) for n in (1, 64, 65, 128, 129)] == [64, 64, 128, 128, 256]


def test_ranges_never_overlap_and_come_back_whole() -> None:
    draw, ranges = random.Random(0), Ranges(400)
    held: dict[int, int] = {}
    for _ in range(2000):
        if held and draw.random() < 0.5:
            start = draw.choice(list(held))
            ranges.give_back(start, held.pop(start))
            continue
        size = draw.randint(1, 60)
        start = ranges.take(size, from_end=draw.random() < 0.5)
        if start is None:
            continue
        assert start >= 1 and start + size <= 400, "token 0 is the dummy"
        assert all(start + size <= low or low + length <= start for low, length in held.items())
        held[start] = size
    for start, size in held.items():
        ranges.give_back(start, size)
    assert ranges.take(399) == 1 and ranges.take(1) is None


def test_the_pool_moves_only_to_grow() -> None:
    pool = TokenPool(2, 1, 4, torch.float32, torch.device("cpu"))
    assert pool.reserve(100, at_least=20)
    address = pool.keys(0).data_ptr()
    assert not pool.reserve(90, at_least=20) and pool.keys(0).data_ptr() == address
    assert pool.reserve(pool.capacity, at_least=20), "the dummy needs a token too"
    assert pool.capacity > 100 and pool.bytes_per_token == 2 * 2 * 1 * 4 * 4
    assert pool.reserve(80_000, at_least=20)
    assert not pool.reserve(88_000, at_least=20), "prompts a little longer than the last ones cost no graph"


def row(index: int, prompt: int) -> Row:
    return Row(index, 10 + index, 100 * index, prompt, 7 * prompt, 3, 50 * index)


def test_rows_keep_their_state_as_places_change() -> None:
    table = PlaceTable((5, 6, 7), torch.device("cpu"))
    table.load([row(0, 0), row(1, 0), row(2, 1)], [NEW] * 3, 4, tile_rows=8)
    first = table.view(4)
    assert first.ages.tolist() == [0, 0, 0, 1] and first.done.tolist() == [0, 0, 0, 1]
    assert first.tile_first.tolist() == [0, 2, 0, 0] and first.tile_rows.tolist() == [2, 1, 0, 0]
    first.tokens[:3] = torch.tensor([11, 12, 13])
    first.ages[:3] = torch.tensor([4, 5, 6])
    table.load([row(0, 0), row(2, 1), row(9, 2)], [0, 2, NEW], 4, tile_rows=8)
    second = table.view(4)
    assert second.tokens.tolist() == [11, 13, 0, 0] and second.ages.tolist() == [4, 6, 0, 1]
    assert second.slots.tolist() == [0, 200, 900, 0] and second.keys.tolist() == [10, 12, 19, 0]
    assert second.eos.tolist() == [5, 6, 7, -1]
    assert second.tokens.data_ptr() == first.tokens.data_ptr(), "a graph holds this address"


def test_tiles_are_runs_of_one_prompt() -> None:
    assert tiles_of([], 4) == []
    assert tiles_of([0] * 9 + [1, 1, 2], 4) == [(0, 4), (4, 4), (8, 1), (9, 2), (11, 1)]


def test_flags_are_read_one_look_late_and_forgotten_when_places_change() -> None:
    poll, done = FlagPoll(), torch.tensor([0, 1])
    assert poll.exchange(done) is None
    done[0] = 1
    assert poll.exchange(done) == [0, 1] and poll.exchange(done) == [1, 1]
    poll.clear()
    assert poll.exchange(done) is None
