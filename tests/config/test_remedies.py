"""What an error tells to write is possible, and writing it helps: bounds at their extremes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import annotated_types
import pytest

from mathgrpo.config import Recipe, load_recipe
from mathgrpo.config.recipe import RolloutSection
from mathgrpo.config.recipe_fields import fields_of
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.models.policy import check_context
from mathgrpo.problems.sets import hold_out
from mathgrpo.rewards.make_suite import CATALOGUE, build_suite
from mathgrpo.training.prepare import require_enough
from mathgrpo.types import Problem, Prompt, Sampling

PROBLEMS = [Problem(f"What is {i} + 1?", str(i + 1)) for i in range(9)]
ADVISED = re.compile(r"(?:use at most|use|keep what wrong answers earn below|keep them together below) (-?[\d.]+)")


def advised(error: UserError) -> float | None:
    """Return the number that an error says to use; it must be one that can be used."""
    found = ADVISED.search(str(error))
    assert found is None or float(found[1]) > 0, error
    return float(found[1]) if found else None


@pytest.mark.parametrize("longest", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("most", [1, 8, 100])
def test_the_room_beside_a_prompt(longest: int, most: int) -> None:
    policy: Any = SimpleNamespace(max_context=16, steady_context=16, name="tiny")
    prompts = [Prompt((1,) * longest, 0)]
    try:
        check_context(policy, prompts, Sampling(most))
        assert longest + most <= 16
    except UserError as error:
        number = advised(error)
        assert (number is None) == (longest >= 16), error
        if number is not None:
            check_context(policy, prompts, Sampling(int(number)))
        else:
            assert "shorten the prompt" in str(error)


@pytest.mark.parametrize("problems", range(1, 9))
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_how_many_problems_can_be_held_out_or_taken(problems: int, size: int) -> None:
    given = PROBLEMS[:problems]
    try:
        hold_out(given, "x", train_size=100, heldout_size=size)
    except UserError as error:
        number = advised(error)
        assert (number is None) == (problems == 1)
        if number is not None:
            hold_out(given, "x", train_size=100, heldout_size=int(number))
    try:
        require_enough(given, RolloutSection(prompts_per_step=size))
    except UserError as error:
        require_enough(given, RolloutSection(prompts_per_step=int(advised(error) or 0)))


SOUND = [name for name, reward in CATALOGUE.items() if reward.sound and name != "correct"]


@pytest.mark.parametrize("other", SOUND)
@pytest.mark.parametrize("correct", [0.0, 0.001, 1.0, 1000.0])
def test_what_rewards_may_pay(correct: float, other: str) -> None:
    fmt, pay = get_format("xml"), CATALOGUE[other].bounds
    for weight in (0.1, 50.0):
        try:
            build_suite({"correct": correct, other: weight}, fmt, max_new_tokens=64)
        except UserError as error:
            if "nothing pays for being right" in str(error):
                build_suite({"correct": 1.0, other: 0.01}, fmt, max_new_tokens=64)
                continue
            share = 0.9 * (advised(error) or 0) / max(pay.wrong, -pay.right)
            build_suite({"correct": correct, other: share}, fmt, max_new_tokens=64)


NUMBERS = {
    name: field for name, field in fields_of(Recipe).items()
    if any(isinstance(each, annotated_types.Ge | annotated_types.Gt) for each in field.metadata) and "*" not in name
    and not name.startswith(("model.lora", "rollout.vllm"))
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_the_bounds_that_a_message_names_are_the_bounds(name: str) -> None:
    kinds = {"Ge": "ge", "Gt": "gt", "Le": "le", "Lt": "lt"}
    bounds = {
        kind: getattr(each, bound)
        for each in NUMBERS[name].metadata
        for kind, bound in kinds.items()
        if hasattr(each, bound)
    }
    lowest = bounds.get("Ge", bounds.get("Gt"))
    with pytest.raises(UserError) as told:
        load_recipe("demo", [f"{name}={lowest - 1 if 'Ge' in bounds else lowest}"])
    words = {"Ge": "at least", "Gt": "above", "Le": "at most", "Lt": "below"}
    for kind, bound in bounds.items():
        shown = f"{bound:g}" if isinstance(bound, float) else str(bound)
        assert f"{words[kind]} {shown}" in str(told.value) or "use 2 or more" in str(told.value), told.value
