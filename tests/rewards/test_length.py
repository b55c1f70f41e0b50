"""Length shaping: the curves by hand, and equality with TRL where it has the same reward."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.formats import get_format
from mathgrpo.rewards import REWARDS, build_suite
from mathgrpo.rewards.catalogue.length import CosineSettings, OverlongSettings, RepetitionSettings

RIGHT, WRONG = get_format("xml").write("r", "18"), get_format("xml").write("r", "7")


def cosine(text: str, length: int, limit: int = 100, **own: float) -> float:
    call = {"prompts": ["?"], "completions": [text], "answer": ["18"], "question": ["?"]}
    return REWARDS["cosine"](**call, completion_ids=[[1] * length], settings=CosineSettings(max_length=limit, **own))[0]


def overlong(length: int, limit: int, cache: int) -> float:
    own = OverlongSettings(max_length=limit, cache=cache)
    return REWARDS["soft_overlong"](prompts=["?"], completions=["x"], completion_ids=[[1] * length], settings=own)[0]


def test_cosine_falls_from_short_to_long_for_right_answers_and_pays_wrong_ones_nothing() -> None:
    # 0.5 + 0.5 (1 + cos(pi L / 100)) / 2 at 0, 50, 99 and at the end
    assert [cosine(RIGHT, length) for length in (0, 50, 100, 101)] == pytest.approx([1.0, 0.75, 0.0, 0.0])
    assert cosine(RIGHT, 25) == pytest.approx(0.5 + 0.25 * (1 + math.sqrt(0.5)))
    assert [cosine(WRONG, length) for length in (0, 50, 99, 100)] == [0.0] * 4
    # the curve ends at right_long, and one token more is over
    assert (
        0.5 < cosine(RIGHT, 99) < 0.5002
        and cosine(RIGHT, 99, over=-1.0) > 0.5
        and cosine(RIGHT, 100, over=-1.0) == -1.0
    )
    assert [cosine(RIGHT, length, limit=1) for length in (0, 1)] == [1.0, 0.0]


def test_cosine_with_a_curve_for_wrong_answers_and_a_penalty_at_the_end() -> None:
    own = {"right_short": 2.0, "right_long": 1.0, "wrong_short": -10.0, "wrong_long": 0.0, "over": -10.0}
    assert [cosine(RIGHT, length, **own) for length in (0, 50, 100)] == pytest.approx([2.0, 1.5, -10.0])
    assert [cosine(WRONG, length, **own) for length in (0, 50, 100)] == pytest.approx([-10.0, -5.0, -10.0])


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_longer_never_pays_more_for_a_right_answer(first: int, second: int) -> None:
    short, long = sorted((first, second))
    assert 0 <= cosine(RIGHT, long) <= cosine(RIGHT, short) <= 1


def test_soft_overlong_by_hand() -> None:
    # DAPO's own numbers: 20,480 tokens, a cache of 4,096
    assert overlong(16_384, 20_480, 4_096) == 0.0
    assert overlong(16_384 + 1_024, 20_480, 4_096) == -0.25
    assert overlong(20_480, 20_480, 4_096) == -1.0 and overlong(30_000, 20_480, 4_096) == -1.0
    # at the borders: the whole length as cache, a limit of one token
    assert [overlong(length, 100, 100) for length in (0, 1, 99, 100)] == [0.0, -0.01, -0.99, -1.0]
    assert [overlong(length, 1, 0) for length in (0, 1, 2)] == [0.0, -1.0, -1.0]
    # a fifth of the limit without a setting
    assert [overlong(length, 100, 0) for length in (80, 90, 100)] == [0.0, -0.5, -1.0]


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 200), st.data())
def test_soft_overlong_is_trls(length: int, limit: int, data: st.DataObject) -> None:
    rewards = pytest.importorskip("trl.rewards")
    cache = data.draw(st.integers(1, limit))
    (theirs,) = rewards.get_soft_overlong_punishment(limit, cache)(completion_ids=[[1] * length])
    assert overlong(length, limit, cache) == pytest.approx(theirs)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_repetition_is_trls(ids: list[int], ngram: int) -> None:
    rewards = pytest.importorskip("trl.rewards")
    (theirs,) = rewards.get_repetition_penalty_reward(ngram)(completion_ids=[ids])
    own = RepetitionSettings(ngram=ngram)
    (ours,) = REWARDS["repetition"](prompts=["?"], completions=["x"], completion_ids=[ids], settings=own)
    assert ours == pytest.approx(theirs) and -1 <= ours <= 0


def test_repetition_by_hand() -> None:
    def paid(ids: list[int], ngram: int) -> float:
        own = RepetitionSettings(ngram=ngram)
        return REWARDS["repetition"](prompts=["?"], completions=["x"], completion_ids=[ids], settings=own)[0]

    assert paid([1, 2, 3, 4], 2) == 0.0 and paid([5] * 5, 2) == -0.75 and paid([5], 3) == 0.0


@pytest.mark.parametrize("name", ["cosine", "soft_overlong", "repetition"])
def test_without_token_ids_they_do_not_apply(name: str) -> None:
    call = {"prompts": ["?"], "completions": [RIGHT], "answer": ["18"], "question": ["?"], "max_new_tokens": 9}
    assert REWARDS[name](**call) == [None]


def test_the_runs_own_limit_counts_where_settings_name_none() -> None:
    suite = build_suite({"correct": 2.0, "soft_overlong": 1.0}, get_format("xml"), max_new_tokens=100)
    columns = {"answer": ["18"] * 2, "question": ["?"] * 2}
    scores = suite.score(["?"] * 2, [RIGHT, RIGHT], columns, completion_ids=[[1] * 80, [1] * 90])
    assert scores.parts["soft_overlong"] == (0.0, -0.5) and scores.totals == (2.0, 1.5)
