"""Train and held-out problems never share a question, and the choice is the same every time."""

from __future__ import annotations

import random

import pytest

from mathgrpo.errors import UserError
from mathgrpo.problems import ProblemSets
from mathgrpo.problems.sets import choose, distinct, hold_out, separate, without
from mathgrpo.types import Problem


def numbered(*numbers: int) -> list[Problem]:
    return [Problem(f"What is {n} + {n}?", str(2 * n)) for n in numbers]


def ids(problems: object) -> set[str]:
    return {problem.id for problem in problems}  # type: ignore[attr-defined]


def test_overlapping_sets_cannot_be_made() -> None:
    one, two = numbered(1, 2)
    with pytest.raises(ValueError, match="1 of 2 training problems are held out"):
        ProblemSets(train=(one, two), heldout=(Problem("what is  2 + 2? ", "4"),))
    with pytest.raises(ValueError, match="held out"):
        ProblemSets(train=(one,), heldout=(two,), heldout_templates=(one,))


def test_repeats_are_found_blind_to_case_and_spacing() -> None:
    first, other = numbered(1, 2)
    same, disagreeing = Problem("what IS 1 +  1?", "2"), Problem("What is 1 + 1?", "3")
    assert distinct([first, other, same, disagreeing]) == ((first, other), 2, 1)
    assert without(numbered(1, 2, 3), numbered(3, 4)) == (tuple(numbered(1, 2)), 1)


def test_choice_is_independent_of_file_order_and_nested_by_size() -> None:
    problems = numbered(*range(50))
    shuffled = random.Random(0).sample(problems, 50)
    assert ids(choose(problems, 10)) == ids(choose(shuffled, 10)) < ids(choose(problems, 20))
    assert [p for p in problems if p in choose(problems, 10)] == list(choose(problems, 10))
    assert choose(problems, 50) == choose(problems, 99) == tuple(problems)


def test_held_out_part_is_apart_from_training_and_said_in_a_note() -> None:
    sets = hold_out(numbered(*range(20)), '"x.jsonl"', train_size=100, heldout_size=8)
    assert (len(sets.train), len(sets.heldout)) == (12, 8) and not ids(sets.train) & ids(sets.heldout)
    assert sets.notes == ('"x.jsonl" has no held-out split: 8 of 20 problems held out by question hash',)
    more = hold_out(numbered(*range(20)), '"x.jsonl"', train_size=5, heldout_size=8)
    assert more.heldout == sets.heldout and ids(more.train) < ids(sets.train) and len(more.train) == 5
    assert more.notes[1] == "train: 5 of 12 problems, chosen by question hash"


def test_at_least_half_stays_for_training() -> None:
    assert len(hold_out(numbered(*range(20)), "x", train_size=99, heldout_size=10).train) == 10
    with pytest.raises(UserError, match=r"problems\.heldout_size=11: x has 20 different problems.*use 10 or less"):
        hold_out(numbered(*range(20)) + numbered(3), "x", train_size=99, heldout_size=11)
    with pytest.raises(UserError, match="add problems"):
        hold_out(numbered(1), "x", train_size=99, heldout_size=1)


def test_training_loses_what_the_whole_held_out_split_has() -> None:
    # 4 and 5 are in both; one of the held-out problems is evaluated on, and still neither may be trained on.
    sets = separate(numbered(1, 2, 3, 4, 5, 5), numbered(4, 5, 6), '"x"', train_size=9, heldout_size=1)
    assert ids(sets.train) == ids(numbered(1, 2, 3)) and len(sets.heldout) == 1
    assert sets.notes == (
        "train: 1 repeated problems dropped",
        "train: 2 of 5 problems dropped, they are in the held-out split",
        "held-out: 1 of 3 problems, chosen by question hash",
    )


def test_disagreeing_repeats_are_counted() -> None:
    sets = separate([*numbered(1), Problem("What is 1 + 1?", "5")], numbered(2), '"x"', train_size=9, heldout_size=9)
    assert sets.notes == ("train: 1 repeated problems dropped, 1 of them with another answer",)
    assert sets.train[0].answer == "2"


def test_nothing_left_to_train_on() -> None:
    with pytest.raises(UserError, match=r'problems\.source="x": every one of its 2 training problems is in the held'):
        separate(numbered(1, 2), numbered(2, 1, 3), '"x"', train_size=9, heldout_size=9)
