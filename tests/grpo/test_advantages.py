from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mathgrpo.errors import UserError
from mathgrpo.grpo import group_advantages, with_advantages
from mathgrpo.grpo.advantages import decoupled_advantages
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from update.grpo_cases import make_groups


def test_hand_computed_group_scale() -> None:
    # Rewards 0, 1, 2: mean 1, sample deviation sqrt((1 + 0 + 1) / 2) = 1 -> -1, 0, 1 over 1.0001.
    advantages = group_advantages(torch.tensor([[0.0, 1.0, 2.0]]), "group")
    torch.testing.assert_close(advantages, torch.tensor([[-1 / 1.0001, 0.0, 1 / 1.0001]]))


def test_hand_computed_mean_only_and_batch_scale() -> None:
    rewards = torch.tensor([[0.0, 2.0], [4.0, 4.0]])
    torch.testing.assert_close(group_advantages(rewards, "none"), torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))
    # All four rewards: mean 2.5, squares 6.25 + 0.25 + 2.25 + 2.25 = 11, over n - 1 = 3.
    std = math.sqrt(11 / 3) + 1e-4
    torch.testing.assert_close(group_advantages(rewards, "batch"), torch.tensor([[-1 / std, 1 / std], [0.0, 0.0]]))


@pytest.mark.parametrize("scale", ["group", "none", "batch"])
def test_equal_rewards_give_exactly_zero_and_groups_sum_to_zero(scale: str) -> None:
    # The mean of seven times 0.1 is not 0.1 in floating point.
    rewards = torch.tensor([[0.1] * 7, [0.1, 0.3, 0.7, 1.1, 2.0, 0.0, 0.1]])
    kept = rewards.clone()
    advantages = group_advantages(rewards, scale)  # type: ignore[arg-type]
    assert advantages[0].tolist() == [0.0] * 7
    assert abs(advantages[1].sum().item()) < 1e-5 and advantages[1].abs().min() > 0
    assert torch.equal(rewards, kept)


def test_a_whole_step_of_equal_rewards_is_zero_at_batch_scale() -> None:
    assert group_advantages(torch.full((3, 4), 0.1), "batch").abs().max().item() == 0.0


def test_equal_rewards_are_zero_where_their_mean_rounds() -> None:
    # In double precision (0.1 + 0.1 + 0.1) / 3 = 0.10000000000000002.
    rewards = torch.full((2, 3), 0.1, dtype=torch.float64)
    assert rewards.mean(dim=1)[0].item() != 0.1
    assert group_advantages(rewards, "none").tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("scale", ["group", "none", "batch"])
def test_a_completion_without_a_reward_gets_zero_and_changes_nothing_for_the_others(scale: str) -> None:
    # As in TRL 1.16: NaN is left out of the baseline and of the deviation.
    scored = torch.tensor([[0.0, 2.0, 1.0], [4.0, 1.0, 4.0]])
    holes = torch.tensor([[0.0, math.nan, 2.0, 1.0], [4.0, 1.0, 4.0, math.nan], [math.nan] * 4])
    advantages = group_advantages(holes, scale)  # type: ignore[arg-type]
    expected = group_advantages(scored, scale)  # type: ignore[arg-type]
    torch.testing.assert_close(advantages[0, [0, 2, 3]], expected[0])
    torch.testing.assert_close(advantages[1, :3], expected[1])
    assert advantages[0, 1] == 0 and advantages[1, 3] == 0 and advantages[2].tolist() == [0.0] * 4
    lone = group_advantages(torch.tensor([[math.nan, 3.0]]), scale)  # type: ignore[arg-type]
    assert lone.tolist() == [[0.0, 0.0]]


def test_with_advantages_fills_groups_and_leaves_the_rest() -> None:
    groups = make_groups()
    filled = with_advantages(groups, "none")
    for before, after in zip(groups, filled, strict=True):
        mean = sum(before.rewards) / len(before.rewards)
        assert after.advantages == pytest.approx([reward - mean for reward in before.rewards])
        assert after.completions is before.completions


def test_with_advantages_refuses_missing_and_infinite_rewards() -> None:
    def group(*rewards: float) -> RolloutGroup:
        completion = Completion((5, 1), (0.0, 0.0), "eos")
        return RolloutGroup(Problem("q", "1"), Prompt((3,), 0), (completion,) * 2, ("", ""), rewards=rewards)

    for bad in ([group(1.0)], [group(1.0, math.inf)]):
        with pytest.raises(UserError):
            with_advantages(bad, "group")
    assert with_advantages([], "group") == []


def test_decoupled_advantages_by_hand() -> None:
    """Each reward normalised in its group, summed by weight, and the sums normalised over the step."""
    nan = math.nan
    parts = torch.tensor([[[1.0, 0.0, 0.0], [2.0, 4.0, nan]], [[0.1, 0.1, 0.4], [nan, 0.5, nan]]], dtype=torch.float64)
    weights = [1.0, 0.5]
    first, second = group_advantages(parts[0]).double(), group_advantages(parts[1]).double()
    sums = first + 0.5 * second
    assert second[1].tolist() == [0.0, 0.0, 0.0] and first[1, 2] == 0.0
    known = torch.cat([sums[0], sums[1, :2]])
    expected = (known - known.mean()) / (known.std() + 1e-4)
    ours = decoupled_advantages(parts, weights)
    assert ours.flatten()[:5].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert ours[1, 2] == 0.0, "no reward applies to it"


def test_groups_take_decoupled_advantages_from_their_parts() -> None:
    groups = [
        dataclasses.replace(group, reward_parts={"correct": group.rewards, "form": (None, 0.1, 0.0, 0.3)})
        for group in make_groups()
    ]
    filled = with_advantages(groups, "decoupled", {"correct": 1.0, "form": 0.5})
    parts = torch.tensor(
        [[group.rewards for group in groups], [(math.nan, 0.1, 0.0, 0.3) for _ in groups]], dtype=torch.float64
    )
    expected = decoupled_advantages(parts, [1.0, 0.5])
    assert [group.advantages for group in filled] == [tuple(row) for row in expected.tolist()]
    assert abs(sum(sum(group.advantages) for group in filled)) < 1e-5
