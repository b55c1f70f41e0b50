from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.graded import evaluation, outcomes, record
from mathgrpo.errors import UserError
from mathgrpo.evaluation import Comparison, Evaluation, EvaluationSettings, compare, verdict_line
from mathgrpo.evaluation.compare import mcnemar_p, newcombe_interval, points, sign_flip_p, signed_points

counts = st.integers(0, 30)


def test_mcnemar_by_hand() -> None:
    # 7 fixed, 1 broken: 2 * (C(8,0) + C(8,1)) / 2^8 = 18 / 256.
    assert mcnemar_p(7, 1) == 18 / 256 == mcnemar_p(1, 7)
    assert mcnemar_p(0, 0) == 1.0 and mcnemar_p(4, 4) == 1.0
    assert mcnemar_p(5, 0) == 2 / 32
    assert 0 < mcnemar_p(900, 100) < 1e-100  # beyond what a float product of halves would carry


@given(counts, counts)
def test_sign_flip_test_of_single_outcomes_is_mcnemars(fixed: int, broken: int) -> None:
    assert sign_flip_p([1] * fixed + [-1] * broken + [0]) == pytest.approx(mcnemar_p(fixed, broken))


def test_sign_flip_by_enumeration() -> None:
    # +-1 +-2 +-3: sums -6 -4 -2 0 0 2 4 6; observed 1 - 2 + 3 = 2, at least as far: 6 of 8.
    assert sign_flip_p([1, -2, 3]) == pytest.approx(6 / 8)
    assert sign_flip_p([]) == 1.0


def test_newcombe_interval_of_a_published_table() -> None:
    # Bentur et al. 2009 in Fagerland, Lydersen, Laake 2014 (Stat. Med. 33, 2850-2875): 1, 1, 7, 12 of 21; before minus
    # after is -0.286, square-and-add interval -0.507 to -0.026. With after minus before the signs turn.
    low, high = newcombe_interval(both=1, only_before=1, only_after=7, neither=12)
    assert (low, high) == pytest.approx((0.026, 0.507), abs=5e-4)
    assert newcombe_interval(1, 7, 1, 12) == pytest.approx((-high, -low))


@given(counts, counts, counts, counts.map(lambda n: n + 1))
def test_newcombe_interval_holds_the_difference_and_stays_in_bounds(e: int, f: int, g: int, h: int) -> None:
    low, high = newcombe_interval(e, f, g, h)
    assert -1 <= low <= (g - f) / (e + f + g + h) + 1e-12
    assert (g - f) / (e + f + g + h) - 1e-12 <= high <= 1


def test_compare_counts_pairs() -> None:
    before, after = outcomes(both=1, broken=1, fixed=7, neither=12)
    comparison = compare(before, after)
    assert (comparison.before, comparison.after) == (2 / 21, 8 / 21)
    assert comparison.difference == pytest.approx(6 / 21)
    assert (comparison.fixed, comparison.broken, comparison.problems) == (7, 1, 21)
    assert comparison.p == 18 / 256 and not comparison.significant
    assert (comparison.low, comparison.high) == newcombe_interval(1, 1, 7, 12)
    assert comparison.as_dict()["difference"] == comparison.difference


def test_compare_pairs_by_problem_not_by_place() -> None:
    before, after = outcomes(both=3, broken=0, fixed=6, neither=2)
    shuffled = Evaluation(after.records[::-1], after.settings)
    assert compare(before, shuffled) == compare(before, after)


def test_compare_refuses_other_problems() -> None:
    before, after = outcomes(both=2, broken=0, fixed=2, neither=0)
    with pytest.raises(UserError, match="share 3 problems of 4 and 3"):
        compare(before, Evaluation(after.records[:3], after.settings))
    with pytest.raises(UserError, match="no problems"):
        compare(Evaluation((), after.settings), after)


def test_a_problem_that_occurs_twice_is_paired_in_order() -> None:
    settings = EvaluationSettings(64)
    before = Evaluation((record(1, "correct"), record(1, "wrong")), settings)
    after = Evaluation((record(1, "correct"), record(1, "correct")), settings)
    comparison = compare(before, after)
    assert (comparison.problems, comparison.fixed, comparison.broken) == (2, 1, 0)


def test_sampled_comparison_takes_the_mean_over_samples() -> None:
    settings = EvaluationSettings(64, samples=2)
    before = [["wrong", "wrong"], ["correct", "wrong"], ["wrong", "wrong"], ["correct", "correct"]]
    after = [["correct", "wrong"], ["correct", "correct"], ["correct", "correct"], ["correct", "correct"]]
    one, two = (
        Evaluation(tuple(record(i, "wrong", s) for i, s in enumerate(side)), settings) for side in (before, after)
    )
    comparison = compare(one, two, metric="sampled")
    assert (comparison.before, comparison.after) == (3 / 8, 7 / 8)
    # Differences 1/2, 1/2, 1, 0: mean 1/2, variance 1/6, standard error sqrt(1/24).
    assert comparison.low == pytest.approx(0.5 - 1.959964 * sqrt(1 / 24))
    # Of the 8 sign choices of 1, 1, 2 only two reach |4|.
    assert comparison.p == pytest.approx(2 / 8)
    assert (comparison.fixed, comparison.broken) == (3, 0)
    assert compare(one, two).difference == 0
    with pytest.raises(UserError, match="no samples"):
        compare(evaluation(["wrong"]), evaluation(["correct"]), metric="sampled")


def a_comparison(before: float, after: float, low: float, high: float, p: float, n: int = 500) -> Comparison:
    return Comparison("greedy", before, after, low, high, p, n, 0, 0, "")


def test_verdict_line_of_the_issue() -> None:
    line = verdict_line(a_comparison(0.412, 0.638, 0.189, 0.263, 1e-9))
    assert (
        line == "held-out accuracy 41.2 % → 63.8 %, +22.6 points, 95 % interval [18.9, 26.3], p < 0.001, 500 problems"
    )


def test_verdict_line_is_honest() -> None:
    flat = verdict_line(a_comparison(0.5, 0.52, -0.011, 0.051, 0.2345, 1319))
    assert flat == (
        "held-out accuracy 50.0 % → 52.0 %, +2.0 points, 95 % interval [−1.1, 5.1], p = 0.234, "
        "1,319 problems, no significant change"
    )
    worse = verdict_line(a_comparison(0.5, 0.4, -0.15, -0.05, 0.0341), subject="accuracy")
    assert worse == (
        "accuracy 50.0 % → 40.0 %, −10.0 points, 95 % interval [−15.0, −5.0], p = 0.034, 500 problems, worse"
    )


def test_no_sign_on_nothing() -> None:
    assert points(-0.0001) == "0.0" and signed_points(-0.0001) == "0.0" and signed_points(0.0001) == "0.0"
    assert signed_points(0.001) == "+0.1" and signed_points(-0.001) == "−0.1"
