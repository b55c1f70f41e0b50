"""Problem order: a pure function of seed and step."""

from __future__ import annotations

import pytest

from mathgrpo.training.recipe_task import counted_seed, problems_of_step

PROBLEMS = list(range(10))


def test_an_epoch_meets_whole_steps_of_distinct_problems() -> None:
    for epoch in range(3):
        met = [p for step in range(3) for p in problems_of_step(PROBLEMS, 3 * epoch + step, 3, seed=5)]
        assert len(met) == len(set(met)) == 9  # 10 // 3 steps of 3; one problem waits
        assert set(met) <= set(PROBLEMS)


def test_no_problem_waits_for_ever() -> None:
    met = {p for step in range(30) for p in problems_of_step(PROBLEMS, step, 3, seed=5)}
    assert met == set(PROBLEMS)


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    first = problems_of_step(PROBLEMS, 4, 5, seed=1)
    problems_of_step(PROBLEMS, 0, 5, seed=2)
    assert problems_of_step(PROBLEMS, 4, 5, seed=1) == first
    epochs = {tuple(problems_of_step(PROBLEMS, 2 * epoch, 5, seed=1)) for epoch in range(6)}
    seeds = {tuple(problems_of_step(PROBLEMS, 0, 5, seed=seed)) for seed in range(6)}
    assert len(epochs) == len(seeds) == 6


def test_too_few_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="10 problems are too few for steps of 11"):
        problems_of_step(PROBLEMS, 0, 11, seed=0)


def test_seeds_fit_in_63_bits_and_differ_by_purpose_and_count() -> None:
    seeds = [counted_seed(s, purpose, c) for s in range(3) for purpose in ("a", "b") for c in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
