from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.graded import evaluation, graded, record
from mathgrpo.evaluation import Evaluation, EvaluationSettings, compare, gain_parts
from mathgrpo.evaluation.run_verdict import rates

KINDS = [
    ("correct", True),
    ("wrong", True),
    ("correct", False),
    ("wrong", False),
    ("no_answer", True),
    ("refused", False),
]


def mix(*parts: tuple[int, str, bool]) -> Evaluation:
    """Return an evaluation with so many completions of each verdict and kind."""
    return evaluation([graded(verdict, worked=worked) for count, verdict, worked in parts for _ in range(count)])


def test_parts_by_hand() -> None:
    # Before: 5 of 10 readable, 2 worked (1 right), 3 quick (1 right): f .5, w .4, a (.5, 1/3), accuracy .2.
    before = mix(
        (1, "correct", True), (1, "wrong", True), (1, "correct", False), (2, "wrong", False), (5, "no_answer", False)
    )
    # After: all readable, 8 worked (6 right), 2 quick (1 right): f 1, w .8, a (.75, .5), accuracy .7.
    after = mix((6, "correct", True), (2, "wrong", True), (1, "correct", False), (1, "wrong", False))
    # g(w, a) = w a1 + (1 - w) a0: g(.4, old) .4, g(.8, old) 7/15, g(.4, new) .6, g(.8, new) .7.
    # Weights 1/3 1/6 1/6 1/3.
    # format:     .5 (.4/3 + (7/15)/6 + .6/6 + .7/3)             = .272222
    # working:    (.5/15)/3 + (1/15)/6 + (.5 .1)/6 + .1/3         = .063889
    # arithmetic: (.5 .2)/3 + .2/6 + (.5 .7/3)/6 + (.7/3)/3       = .163889
    parts = gain_parts(before, after)
    assert (parts.format, parts.working, parts.arithmetic) == pytest.approx((27.22222, 6.38889, 16.38889), abs=1e-5)
    assert parts.total == pytest.approx(50.0, abs=1e-9) == parts.as_dict()["total"]


def test_each_pure_cause_gets_the_whole_gain() -> None:
    unreadable = mix((4, "correct", True), (4, "wrong", True), (8, "no_answer", True))
    readable = mix((8, "correct", True), (8, "wrong", True))
    assert tuple(gain_parts(unreadable, readable).as_dict().values()) == pytest.approx((25.0, 0, 0, 25.0))

    # Worked ones are right 3 times in 4, quick ones 1 time in 4, on both sides; only the mix changes.
    mostly_quick = mix((3, "correct", True), (1, "wrong", True), (3, "correct", False), (9, "wrong", False))
    mostly_worked = mix((9, "correct", True), (3, "wrong", True), (1, "correct", False), (3, "wrong", False))
    assert tuple(gain_parts(mostly_quick, mostly_worked).as_dict().values()) == pytest.approx((0, 25.0, 0, 25.0))

    poor, good = mix((4, "correct", True), (12, "wrong", True)), mix((8, "correct", True), (8, "wrong", True))
    assert tuple(gain_parts(poor, good).as_dict().values()) == pytest.approx((0, 0, 25.0, 25.0))


def test_a_kind_unseen_before_counts_as_working() -> None:
    # Nobody knows how well the old model would have worked: its rate is taken from the new one.
    quick, worked = mix((1, "correct", False), (3, "wrong", False)), mix((3, "correct", True), (1, "wrong", True))
    assert tuple(gain_parts(quick, worked).as_dict().values()) == pytest.approx((0, 50.0, 0, 50.0))


def test_from_nothing_readable_all_is_format() -> None:
    silent, speaking = mix((4, "no_answer", False)), mix((3, "correct", True), (1, "wrong", False))
    assert tuple(gain_parts(silent, speaking).as_dict().values()) == pytest.approx((75.0, 0, 0, 75.0))


completions = st.lists(
    st.sampled_from(KINDS).map(lambda kind: graded(kind[0], worked=kind[1])), min_size=12, max_size=12
)


@given(completions, completions)
def test_parts_always_sum_to_the_gain_and_turn_round(one: list[Any], two: list[Any]) -> None:
    before, after = evaluation(one), evaluation(two)
    parts, back = gain_parts(before, after), gain_parts(after, before)
    assert parts.total == pytest.approx(100 * compare(before, after).difference, abs=1e-9)
    assert (parts.format, parts.working) == pytest.approx((-back.format, -back.working), abs=1e-9)


@given(completions, completions)
def test_sampled_parts_sum_to_the_sampled_gain(one: list[Any], two: list[Any]) -> None:
    before, after = (
        Evaluation(tuple(record(i, "wrong", side[3 * i : 3 * i + 3]) for i in range(4)), EvaluationSettings(64, 3))
        for side in (one, two)
    )
    gain = 100 * compare(before, after, metric="sampled").difference
    assert gain_parts(before, after, metric="sampled").total == pytest.approx(gain, abs=1e-9)


def test_rates_multiply_to_the_accuracy() -> None:
    side = mix(
        (1, "correct", True), (1, "wrong", True), (1, "correct", False), (2, "wrong", False), (5, "no_answer", False)
    )
    chain = rates(side.records)
    assert (chain.readable, chain.worked, chain.right_worked, chain.right_quick) == pytest.approx(
        (0.5, 0.4, 0.5, 1 / 3)
    )
