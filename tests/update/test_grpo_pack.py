from __future__ import annotations

import random

import pytest
import torch

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.types import Completion, Problem, Prompt, RolloutGroup
from mathgrpo.update.pack import (
    Piece,
    bucket,
    build_micro_batch,
    objective_of,
    pieces_with_loss,
    plan_micro_batches,
)
from mathgrpo.update.step import step_tokens
from update.grpo_cases import EOS, MAX_NEW_TOKENS, make_groups


def two_completions() -> list[RolloutGroup]:
    completions = (Completion((10, 11, EOS), (-1.0, -2.0, -3.0), "eos"), Completion((20, 21), (-4.0, -5.0), "length"))
    group = RolloutGroup(Problem("q", "1"), Prompt((7, 8), 0), completions, ("", ""), advantages=(1.0, -2.0))
    return [group]


def test_shared_layout_by_hand() -> None:
    groups = two_completions()
    tokens = step_tokens(groups, objective_of(GrpoSection(loss="dr_grpo")), False, 5)
    batch = build_micro_batch(groups, tokens.offsets, [Piece(0, (0, 1))], shared_prompt=True)
    # [7 8][10 11][20]: last tokens are not inputs. Positions restart after the prompt.
    assert batch.input_ids[0, :5].tolist() == [7, 8, 10, 11, 20]
    assert batch.position_ids[0, :5].tolist() == [0, 1, 2, 3, 2]
    assert batch.num_unique == 5
    # The first token of each completion comes from row 1, the prompt's last.
    assert batch.logit_rows[:5].tolist() == [1, 2, 3, 1, 4]
    assert batch.targets[:5].tolist() == [10, 11, EOS, 20, 21]
    assert batch.token_index.tolist() == [0, 1, 2, 3, 4]
    assert tokens.advantages_M.tolist() == [1.0, 1.0, 1.0, -2.0, -2.0]
    assert tokens.sampling_M.tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0]
    # 2 completions of at most 5 tokens.
    torch.testing.assert_close(tokens.weights_M, torch.full((5,), 0.1))


def test_plain_layout_by_hand() -> None:
    groups = two_completions()
    tokens = step_tokens(groups, objective_of(GrpoSection()), False, 5)
    batch = build_micro_batch(groups, tokens.offsets, [Piece(0, (0, 1))], shared_prompt=False)
    assert batch.attention_mask is not None
    assert batch.input_ids[:, :4].tolist() == [[7, 8, 10, 11], [7, 8, 20, 0]]
    assert batch.attention_mask.sum(dim=1).tolist() == [4, 3]
    width = batch.input_ids.shape[1]
    assert batch.logit_rows[:5].tolist() == [1, 2, 3, width + 1, width + 2]
    assert batch.targets[:5].tolist() == [10, 11, EOS, 20, 21]


def test_end_token_has_loss_and_a_masked_truncated_completion_has_none() -> None:
    groups = two_completions()
    section = GrpoSection(mask_truncated=True, loss="dapo", beta=0.1)
    tokens = step_tokens(groups, objective_of(section), section.mask_truncated, 5)
    # The three tokens of the first completion, its end token included.
    torch.testing.assert_close(tokens.weights_M, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0, 0.0]))
    assert tokens.num_kept == 3
    assert pieces_with_loss(groups, section) == [Piece(0, (0,))]


@pytest.mark.parametrize("shared_prompt", [True, False])
@pytest.mark.parametrize("token_budget", [1, 20, 60, 10_000])
def test_plan_holds_every_completion_once_within_budget(shared_prompt: bool, token_budget: int) -> None:
    groups = make_groups(num_groups=5)
    pieces = [Piece(b, tuple(range(4))) for b in range(5)]
    plan = plan_micro_batches(groups, pieces, token_budget, shared_prompt=shared_prompt)
    seen = sorted((piece.group, g) for batch in plan for piece in batch for g in piece.completions)
    assert seen == [(b, g) for b in range(5) for g in range(4)]
    tokens = step_tokens(groups, objective_of(GrpoSection()), False, MAX_NEW_TOKENS)
    for batch in plan:
        built = build_micro_batch(groups, tokens.offsets, batch, shared_prompt=shared_prompt)
        single = len(batch) == 1 and len(batch[0].completions) == 1
        assert built.num_unique <= token_budget or single
    assert plan == plan_micro_batches(groups, pieces, token_budget, shared_prompt=shared_prompt)


def test_zero_advantages_are_left_out_only_where_that_is_exact() -> None:
    groups = make_groups(same_rewards=(1,))
    groups[0] = RolloutGroup(
        groups[0].problem, groups[0].prompt, groups[0].completions, groups[0].texts, advantages=(0.0, 1.0, -1.0, 0.0)
    )
    kept = {piece.group: piece.completions for piece in pieces_with_loss(groups, GrpoSection())}
    assert kept[0] == (1, 2) and 1 not in kept
    for section, skip in ((GrpoSection(beta=0.1), True), (GrpoSection(), False)):
        kept_all = pieces_with_loss(groups, section, skip_zero_advantage=skip)
        assert [piece.completions for piece in kept_all] == [(0, 1, 2, 3)] * 3


def test_buckets_are_few_and_close() -> None:
    sizes = range(1, 9000)
    assert all(bucket(size) >= size for size in sizes)
    assert all(bucket(size) - size <= size / 16 for size in sizes if size > 512)
    assert len({bucket(size) for size in sizes}) < 200


def test_building_batches_leaves_groups_and_random_state_alone() -> None:
    groups = make_groups()
    kept = make_groups()
    state, torch_state = random.getstate(), torch.random.get_rng_state()
    tokens = step_tokens(groups, objective_of(GrpoSection()), False, MAX_NEW_TOKENS)
    build_micro_batch(groups, tokens.offsets, [Piece(0, (0, 1))], shared_prompt=True)
    assert groups == kept and random.getstate() == state
    assert torch.equal(torch.random.get_rng_state(), torch_state)
