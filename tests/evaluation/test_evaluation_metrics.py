from __future__ import annotations

from itertools import combinations
from math import sqrt

import pytest

from evaluation.graded import evaluation, graded, record
from mathgrpo.evaluation.records import (
    majority_correct,
    mean_interval,
    mean_pass_at_k,
    pass_at_k,
    summarise,
    wilson_interval,
)


def test_wilson_interval_is_the_published_one() -> None:
    # 8 of 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half width 0.22657.
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-5)
    # Newcombe 1998 (Stat. Med. 17, 857-872), table I: 81 of 263 -> 0.2553 to 0.3662; 0 of 20 -> 0 to 0.1611.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_interval_ends() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(5, 5)[1] == 1.0
    low, high = wilson_interval(3, 9)
    assert wilson_interval(6, 9) == pytest.approx((1 - high, 1 - low))


def test_mean_interval_takes_the_problem_as_unit() -> None:
    # Means 0, 0.5, 1, 0.5: mean 0.5, variance 0.5 / 3, standard error sqrt(1 / 24) = 0.20412.
    assert mean_interval([0, 0.5, 1, 0.5]) == pytest.approx(
        (0.5 - 1.959964 * sqrt(1 / 24), 0.5 + 1.959964 * sqrt(1 / 24))
    )
    assert mean_interval([1.0]) == (0.0, 1.0)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 2), (5, 0, 3), (5, 5, 1), (6, 2, 3), (6, 4, 3)])
def test_pass_at_k_is_the_share_of_all_subsets(n: int, c: int, k: int) -> None:
    outcomes = [i < c for i in range(n)]
    subsets = list(combinations(outcomes, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="k=5"):
        pass_at_k(4, 1, 5)


def test_majority_votes_by_value_and_shares_ties() -> None:
    seven, seven_decimal = graded(answer="7"), graded(answer="7.00")
    eight = graded("wrong", answer="8")
    assert majority_correct([seven, eight, seven_decimal]) == 1.0
    # "8" and "8.0" are one block of two against one.
    assert majority_correct([seven, eight, graded("wrong", answer="8.0")]) == 0.0
    assert majority_correct([seven, eight]) == 0.5
    assert majority_correct([seven, eight, graded("wrong", answer="9")]) == pytest.approx(1 / 3)
    # What cannot be read does not vote, even in numbers.
    assert majority_correct([seven, graded("no_answer"), graded("no_answer")]) == 1.0
    assert majority_correct([graded("no_answer")]) == 0.0


def test_summary_counts_each_thing_once() -> None:
    completions = [
        graded("correct", tokens=10),
        graded("wrong", tokens=20, worked=False, format_strict=False),
        graded("no_answer", tokens=30, finish_reason="length", flexible_verdict="correct", worked=False),
        graded("no_answer", tokens=60, finish_reason="length"),
    ]
    summary = evaluation(completions).summary()
    assert summary["problems"] == 4
    assert summary["accuracy"] == 0.25 and summary["accuracy_flexible"] == 0.5
    assert summary["format_rate"] == 0.25 and summary["format_rate_soft"] == 0.5
    assert summary["worked_rate"] == 0.5 and summary["mean_length"] == 30 and summary["clipped_ratio"] == 0.5
    assert summary["verdicts"] == {"correct": 1, "no_answer": 2, "wrong": 1}
    assert (summary["accuracy_low"], summary["accuracy_high"]) == wilson_interval(1, 4)
    assert not any(name.startswith("sampled/") for name in summary)


def test_sampled_summary() -> None:
    records = [
        record(0, "wrong", ["correct", "correct", "correct", graded("wrong", answer="8")]),
        record(1, "correct", [graded("wrong", answer="8")] * 3 + [graded("correct")]),
    ]
    summary = summarise(records)
    assert summary["accuracy"] == 0.5
    assert summary["sampled/accuracy"] == 0.5 and summary["sampled/pass@1"] == 0.5
    # pass@2: 1 - C(1,2)/C(4,2) = 1 and 1 - C(3,2)/C(4,2) = 1/2.
    assert summary["sampled/pass@2"] == pytest.approx(0.75) == mean_pass_at_k(records, 2)
    assert summary["sampled/pass@4"] == 1.0
    assert summary["sampled/maj@4"] == 0.5
    assert "sampled/pass@8" not in summary


def test_summary_of_nothing_has_no_division_by_zero() -> None:
    assert summarise([])["accuracy"] == 0.0
