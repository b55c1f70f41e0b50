"""The parts of training in several processes that need only one: shares, sums, checksums, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
import torch

from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.distributed import SINGLE, World, job_of_environment
from mathgrpo.distributed.exchange import buckets, weights_checksum
from mathgrpo.distributed.world import interleaved
from mathgrpo.errors import UserError
from mathgrpo.runs.hook import Run
from mathgrpo.runs.interrupt import Interrupted, StopRequests, StopWanted
from mathgrpo.training.together import (
    own_bytes,
    own_part,
    require_same_weights,
    require_shareable,
    speed_of_all,
)
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from mathgrpo.update.pack import Piece, micro_batch_cost
from mathgrpo.update.shares import divided

T = TypeVar("T")


class Two(World):
    """The first of two processes; the other one says what the test lets it say."""

    def __init__(self, says: Callable[[Any], Any] = lambda value: value) -> None:
        super().__init__()
        self._says, self.asked, self.size = says, False, 2

    def gather(self, value: T) -> list[T]:
        return [value, self._says(value)]

    def ask_to_stop(self) -> None:
        self.asked = True


def run_in(world: World) -> Run:
    parts: list[Any] = [None] * 6
    return Run(*parts, StopRequests(world), world)


def group(prompt: int, lengths: Sequence[int]) -> RolloutGroup:
    completions = tuple(Completion((5,) * n, (0.0,) * n, "eos") for n in lengths)
    return RolloutGroup(Problem("?", "1"), Prompt((1,) * prompt, 7), completions, ("",) * len(lengths))


def loads(groups: Sequence[RolloutGroup], shares: Sequence[Sequence[Piece]]) -> list[int]:
    return [sum(micro_batch_cost(groups, [piece], shared_prompt=True) for piece in share) for share in shares]


def test_work_is_divided_by_tokens() -> None:
    # prompts of 2; a group costs 2 + sum(n - 1): 26, 14, 14, and so 26 against 28
    groups = [group(2, [13, 13]), group(2, [7, 7]), group(2, [7, 7])]
    pieces = [Piece(i, (0, 1)) for i in range(3)]
    shares = divided(groups, pieces, 2, shared_prompt=True)
    assert sorted(loads(groups, shares)) == [26, 28]
    assert sorted((piece.group, piece.completions) for share in shares for piece in share) == [
        (0, (0, 1)), (1, (0, 1)), (2, (0, 1)),
    ]  # fmt: skip


def test_one_large_group_is_halved() -> None:
    groups = [group(2, [11] * 8)]
    shares = divided(groups, [Piece(0, tuple(range(8)))], 2, shared_prompt=True)
    assert loads(groups, shares) == [2 + 40, 2 + 40]  # the prompt is computed twice
    assert sorted(g for share in shares for piece in share for g in piece.completions) == list(range(8))


def test_a_single_completion_leaves_the_others_without_work() -> None:
    assert divided([group(2, [11])], [Piece(0, (0,))], 3, shared_prompt=True) == [[Piece(0, (0,))], [], []]
    assert divided([group(2, [11])], [], 2, shared_prompt=True) == [[], []]


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_what_is_dealt_out_comes_together_in_order(size: int, count: int) -> None:
    items = list(range(count))
    shares = []
    for rank in range(size):
        world = World()
        world.rank, world.size = rank, size
        shares.append(world.share(items))
    assert interleaved(shares) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_does_nothing_more() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    SINGLE.sum_gradients([weight])
    assert weight.grad is None
    assert SINGLE.gather_shares(SINGLE.share([1, 2])) == [1, 2]
    assert SINGLE.from_main(lambda: 5) == 5 and SINGLE.is_main and not SINGLE.stop_is_wanted()


def test_buckets_hold_no_more_than_they_may() -> None:
    sizes = [3, 3, 9, 1, 1]
    found = [[p.numel() for p in bucket] for bucket in buckets([torch.zeros(n) for n in sizes], elements=6)]
    assert found == [[3, 3], [9], [1, 1]]


def test_the_checksum_sees_the_last_bit_and_which_weight_it_is_of() -> None:
    first, second = torch.randn(1000), torch.randn(1000)
    changed = first.clone()
    changed[7] = torch.nextafter(changed[7], torch.tensor(9.0))
    assert weights_checksum([first, second]) == weights_checksum([first.clone(), second])
    assert weights_checksum([first, second]) != weights_checksum([changed, second])
    assert weights_checksum([first, second]) != weights_checksum([second, first])
    assert weights_checksum([first.bfloat16()]) == weights_checksum([first.bfloat16().float().bfloat16()])


def test_different_weights_are_told() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    require_same_weights(Two(), optimizer, 4)
    with pytest.raises(UserError, match="after step 4: the weights of process 1 are no longer those of process 0"):
        require_same_weights(Two(lambda checksum: checksum + 1), optimizer, 4)


def test_a_stop_asked_of_another_process_is_taken_at_the_same_check() -> None:
    with pytest.raises(Interrupted) as stopped:
        run_in(Two(lambda received: 15)).stop_if_asked()
    assert stopped.value.exit_code == 143
    run_in(Two()).stop_if_asked()


def test_a_stop_asked_here_is_told_to_the_others() -> None:
    world = Two()
    stop = StopRequests(world)
    stop.heed()
    stop.received = 2
    with pytest.raises(StopWanted):
        stop.heed()
    assert world.asked


def test_shares_of_the_machine_are_of_all_devices() -> None:
    speed = {"mfu/step": 0.5, "roofline/rollout": 0.4, "roofline/rollout_memory": 0.9, "memory/peak_gb": 2.0,
             "tokens_per_s": 100.0, "rows_per_decode_step": 12.0}  # fmt: skip
    other = Two(lambda memory: {"memory/peak_gb": 3.0})
    assert speed_of_all(other, speed) == {
        "mfu/step": 0.25, "roofline/rollout": 0.2, "roofline/rollout_memory": 0.9, "memory/peak_gb": 3.0,
        "tokens_per_s": 100.0, "rows_per_decode_step": 6.0,
    }  # fmt: skip
    assert speed_of_all(SINGLE, speed) == speed


def test_memory_is_planned_for_the_busiest_process() -> None:
    recipe = validated(Recipe, {"rollout": {"prompts_per_step": 3}})
    assert own_part(Two(), recipe).rollout.prompts_per_step == 2
    assert own_part(SINGLE, recipe) == recipe
    whole = own_bytes(SINGLE, "cpu")
    assert whole is None or own_bytes(Two(), "cpu") == whole // 2


def test_what_cannot_be_shared_is_refused() -> None:
    require_shareable(validated(Recipe, {"rollout": {"prompts_per_step": 2}}), 2)
    with pytest.raises(UserError, match=r"rollout\.prompts_per_step=2: fewer than the 3 processes"):
        require_shareable(validated(Recipe, {"rollout": {"prompts_per_step": 2}}), 3)
    with pytest.raises(UserError, match=r"rollout\.vllm: not with 2 processes"):
        require_shareable(validated(Recipe, {"rollout": {"vllm": {}}}), 2)


def test_the_environment_says_whether_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert job_of_environment() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE=2: RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"):
        job_of_environment()
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1234"}.items():
        monkeypatch.setenv(name, value)
    job = job_of_environment()
    assert job is not None and (job.rank, job.local_rank, job.size) == (1, 1, 2)
