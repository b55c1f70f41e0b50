"""What --param takes, and what it refuses."""

from __future__ import annotations

import pytest

from mathgrpo.config import Recipe
from mathgrpo.errors import UserError
from mathgrpo.sweep.space import Parameter, default_space, parse_parameters, with_values

RECIPE = Recipe()


def test_ranges_and_choices_are_read() -> None:
    read = parse_parameters(
        ["optimizer.learning_rate=1e-6..1e-4:log", "rollout.group_size=4,8", "rewards.format=0..0.5",
         "grpo.loss=dapo,dr_grpo", "rollout.prompts_per_step=4..16"], RECIPE,
    )  # fmt: skip
    assert read == (
        Parameter("optimizer.learning_rate", 1e-6, 1e-4, log=True),
        Parameter("rollout.group_size", choices=(4, 8)),
        Parameter("rewards.format", 0, 0.5),
        Parameter("grpo.loss", choices=("dapo", "dr_grpo")),
        Parameter("rollout.prompts_per_step", 4, 16),
    )
    assert read[4].is_whole and not read[2].is_whole
    assert parse_parameters([each.text() for each in read], RECIPE) == read


def test_values_reach_the_recipe() -> None:
    values = {
        "optimizer.learning_rate": 3.5e-7,
        "rewards.format": 0.25,
        "grpo.loss": "bnpo",
        "grpo.mask_truncated": True,
    }
    changed = with_values(RECIPE, values)
    assert changed.optimizer.learning_rate == 3.5e-7 and changed.grpo.loss == "bnpo" and changed.grpo.mask_truncated
    assert changed.rewards == {"correct": 1.0, "format": 0.25}


def test_the_default_space_is_allowed_for_any_learning_rate() -> None:
    for rate in (1e-7, 0.5):
        recipe = with_values(RECIPE, {"optimizer.learning_rate": rate})
        parse_parameters([each.text() for each in default_space(recipe)], recipe)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer.learning_rate", "not a parameter; write PATH=LOW..HIGH"),
        ("optimizer.learning_rate=", "not a parameter"),
        ("optimizer.learning_rate=1e-4", "at least two different choices"),
        ("rollout.group_size=4,4", "at least two different choices"),
        ("optimizer.learning_rate=1e-4..1e-6", "lower end must be below"),
        ("optimizer.learning_rate=0..1e-4:log", "above 0"),
        ("optimizer.learning_rate=1e-6..1e-4:exp", "allowed: log"),
        ("optimizer.learning_rate=a..b", "'a' is not a number"),
        ("optimizer.learning_rate=0.1..2.0", "optimizer.learning_rate=2.0: out of range"),
        ("optimizer.lr=0.1..0.2", "no such field"),
        ("rollout.group_size=1,8", "every advantage would be 0"),
        ("rollout.group_size=2.0..8.0", "allowed: a whole number"),
        ("problems.train_size=10..20", "is the same in every trial"),
        ("run.seed=0,1", "is the same in every trial"),
        ("rollout.prompts_per_step=8..5000", "fewer than rollout.prompts_per_step=5000"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_parameters([text], RECIPE)
    assert str(refused.value).startswith(f"--param {text.partition('=')[0]}")
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_setting_is_varied_once() -> None:
    with pytest.raises(UserError, match=r"--param grpo\.beta: given twice"):
        parse_parameters(["grpo.beta=0,0.1", "grpo.beta=0..1"], RECIPE)
