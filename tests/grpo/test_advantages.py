from __future__ import annotations

import math

import pytest
import torch

from mathgrpo.errors import UserError
from mathgrpo.grpo import group_advantages, with_advantages
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
