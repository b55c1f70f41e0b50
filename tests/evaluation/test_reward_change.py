"""Paired changes of rewards: intervals and p-values against hand computation and tables."""

from __future__ import annotations

import math

import pytest

from evaluation.graded import evaluation, graded, record
from mathgrpo.evaluation import Evaluation, EvaluationSettings, compare, reward_changes
from mathgrpo.evaluation.records import majority_correct
from mathgrpo.evaluation.reward_change import paired_change, reward_change, sign_flip_share, student_t

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 29: 2.045, 120: 1.980}
"""97.5 % quantiles as every textbook has them."""


@pytest.mark.parametrize(("degrees", "quantile"), TABLE.items())
def test_students_quantiles(degrees: int, quantile: float) -> None:
    assert student_t(degrees) == pytest.approx(quantile, abs=5e-4)


def test_an_interval_by_hand() -> None:
    # Differences 1, 0, 2, 1: mean 1, s = sqrt(2 / 3), t(3) = 3.1824, half = 3.1824 * 0.8165 / 2 = 1.2992.
    low, high, p = paired_change([1.0, 0.0, 2.0, 1.0])
    assert (low, high) == (pytest.approx(-0.2992, abs=1e-4), pytest.approx(2.2992, abs=1e-4))
    assert p == 0.25, "all three that are not 0 are positive: 2 of 8 signs"
    assert paired_change([0.5])[:2] == (-math.inf, math.inf)


def test_many_differences_are_sampled_and_agree_with_the_exact_share() -> None:
    few = [0.5, -0.25, 1.0, 1.0, 0.75, -0.5, 1.0, 0.25, 1.0, 0.5, -1.0, 1.0]
    exact, sampled = sign_flip_share(few), sign_flip_share([*few, 1e-13])
    assert 0.05 < exact < 0.08 and sampled == pytest.approx(exact, abs=0.005)
    assert sign_flip_share([0.0, 0.0]) == 1.0 and sign_flip_share([1.0] * 200) == pytest.approx(1 / 20_001)


def test_what_does_not_apply_is_left_out() -> None:
    change = reward_change("r", [(0.0, 1.0), (None, 1.0), (0.5, None), (0.0, 1.0)])
    assert change is not None and (change.problems, change.before, change.after) == (2, 0.0, 1.0)
    assert reward_change("r", [(None, 1.0)]) is None


def test_changes_of_whole_evaluations() -> None:
    before = [graded("wrong", rewards={"dir/my.py:good": 0.25 * (i % 2), "new": None}) for i in range(8)]
    after = [graded("wrong", rewards={"dir/my.py:good": 1.0, "other": 1.0}) for i in range(8)]
    [change] = reward_changes(evaluation(before), evaluation(after))
    assert (change.before, change.after, change.outcome) == (0.125, 1.0, "better")
    assert change.line.startswith("reward my.py:good 0.125 → 1.000, +0.875, 95 % interval [0.7")
    assert reward_changes(evaluation(after), evaluation(before))[0].outcome == "worse"
    assert reward_changes(evaluation(["wrong"] * 8), evaluation(after)) == (), "an evaluation without rewards"


def test_samples_count_as_their_problems_mean() -> None:
    def sampled(*values: float | None) -> Evaluation:
        samples = [graded(rewards={"r": value}) for value in values]
        records = tuple(record(i, graded(rewards={"r": 0.0}), samples) for i in range(3))
        return Evaluation(records, EvaluationSettings(64, samples=3))

    [change] = reward_changes(sampled(0.0, 0.0, 1.0), sampled(1.0, None, 0.5), "sampled")
    assert change.before == pytest.approx(1 / 3) and change.after == 0.75
    assert sampled(1.0, None, 0.5).summary()["sampled/reward/r"] == 0.75


def test_other_criteria_are_brought_to_one_scale() -> None:
    def by(correct: str, verdict: str, value: float) -> Evaluation:
        one = graded(verdict, text="<reasoning>\nx\n</reasoning>\n<answer>\n7\n</answer>\n", rewards={"r": value})
        return Evaluation(
            tuple(record(i, one) for i in range(4)), EvaluationSettings(64, format="xml", correct=correct)
        )

    strict, loose = by("r >= 1", "wrong", 0.5), by("r >= 0.5", "correct", 0.5)
    compared = compare(strict, loose)
    assert (compared.before, compared.after, compared.correct) == (1.0, 1.0, "r >= 0.5")
    # Where the reward is not known, both are graded by their answers: 7 is the gold.
    without = evaluation([graded("wrong")] * 4)
    assert (compare(without, strict).before, compare(without, strict).after) == (0.0, 1.0)
    assert compare(without, strict).correct == "answer"


def test_right_answers_of_a_task_do_not_vote_together() -> None:
    one, other = graded("correct", answer="9 + 9"), graded("correct", answer="2 * 9")
    wrong = graded("wrong", answer="9 - 9")
    assert majority_correct([one, other, wrong, wrong]) == 0.5, "right answers are the gold, and vote together"
    assert majority_correct([one, other, wrong, wrong], by_answer=False) == 0.0
    assert majority_correct([one, other, wrong], by_answer=False) == pytest.approx(2 / 3)
