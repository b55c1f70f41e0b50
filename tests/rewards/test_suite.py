import asyncio
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.rewards import Scores, build_suite
from reward_suites import SOUND_WEIGHTS

USER = """
import asyncio

def length(completions, **columns):
    return [float(len(c[0]["content"])) for c in completions]

def only_long(prompts, completions, **columns):
    return [1 if len(c[0]["content"]) > 2 else None for c in completions]

async def waits(completions, answer, **columns):
    await asyncio.sleep(0)
    return [1.0 if c[0]["content"] == gold else 0.0 for c, gold in zip(completions, answer)]

def sees(prompts, completions, answer, question, hint, completion_ids, trainer_state, **columns):
    assert prompts == ["p1", "p2"] and question == ["q1", "q2"] and hint == ["h1", "h2"]
    assert completion_ids == [[1], [2, 3]] and trainer_state == "state"
    return [len(ids) for ids in completion_ids]

def halves(completions, **columns):
    return [1 / (len(c[0]["content"]) - 3) for c in completions]

both = asyncio.Barrier(2)

async def slow(completions, **columns):
    await asyncio.wait_for(both.wait(), 60)
    return [float(len(completions))] * len(completions)

class Judge:
    async def __call__(self, completions, **columns):
        await asyncio.wait_for(both.wait(), 60)
        return [None] * len(completions)

judge = Judge()

async def fails(completions, **columns):
    await asyncio.sleep(0)
    return [1 / (len(c[0]["content"]) - 3) for c in completions]

async def async_nan(completions, **columns): return [0.0, float("nan")]
def short(completions, **columns): return [1.0]
def nan(completions, **columns): return [0.0, float("nan")]
def infinite(completions, **columns): return [0.0, float("inf")]
def words(completions, **columns): return [0.0, "good"]
def nothing(completions, **columns): return None
def one(completions, **columns): return 1.0
def text(completions, **columns): return "ab"
def names_one(completions): return [0.5] * len(completions)
constant = 3
"""


@pytest.fixture
def user(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(USER)
    return str(path)


def score(weights: dict[str, float], texts: list[str], **kwargs: object) -> Scores:
    columns = {"answer": ["18"] * len(texts), "question": ["?"] * len(texts)}
    return build_suite(weights, get_format("xml")).score(["?"] * len(texts), texts, columns, **kwargs)  # type: ignore[arg-type]


def test_totals_are_weighted_sums_and_parts_are_raw(user: str) -> None:
    scores = score({"correct": 2.0, f"{user}:length": -0.5}, ["18", "seven"])
    # "18" alone is right outside the format: 0.25 * 2 - 0.5 * 2 = -0.5; "seven": 0 - 0.5 * 5 = -2.5
    assert scores.totals == (-0.5, -2.5)
    assert scores.parts == {"correct": (0.25, 0.0), f"{user}:length": (2.0, 5.0)}


def test_none_does_not_apply_and_the_others_still_count(user: str) -> None:
    name = f"{user}:only_long"
    scores = score({"correct": 1.0, name: 4.0}, ["18", "#### 18"])
    assert scores.parts[name] == (None, 1.0)
    assert scores.totals == (0.25, 4.25)


def test_weight_zero_is_measured_and_not_paid() -> None:
    scores = score({"correct": 1.0, "reference_correctness": 0.0}, ["18"])
    assert scores.totals == (0.25,) and scores.parts["reference_correctness"] == (2.0,)


def test_async_functions_run_also_inside_a_running_loop(user: str) -> None:
    assert score({f"{user}:waits": 1.0}, ["18", "7"]).totals == (1.0, 0.0)

    async def notebook() -> Scores:
        return score({f"{user}:waits": 1.0}, ["18", "7"])

    assert asyncio.run(notebook()).totals == (1.0, 0.0)


def test_async_functions_wait_together_and_an_object_can_be_one(user: str) -> None:
    scores = score({f"{user}:slow": 1.0, f"{user}:judge": 1.0, f"{user}:waits": 1.0, "correct": 1.0}, ["18", "7"])
    assert scores.totals == (3.25, 2.0) and scores.parts[f"{user}:judge"] == (None, None)
    assert list(scores.parts) == [f"{user}:slow", f"{user}:judge", f"{user}:waits", "correct"]


def test_a_completion_to_which_no_reward_applies_has_no_total(user: str) -> None:
    totals = score({f"{user}:only_long": 1.0}, ["18", "7"]).totals
    assert all(math.isnan(total) for total in totals) and len(totals) == 2


def test_a_function_gets_every_column_and_what_trl_passes(user: str) -> None:
    columns = {"answer": ["1", "2"], "question": ["q1", "q2"], "hint": ["h1", "h2"], "prompts": ["not", "these"]}
    suite = build_suite({f"{user}:sees": 1.0}, get_format("xml"))
    scores = suite.score(["p1", "p2"], ["a", "b"], columns, completion_ids=[[1], [2, 3]], trainer_state="state")
    assert scores.totals == (1.0, 2.0)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("halves", "ZeroDivisionError: division by zero (mine.py line 20) on the completion 'b\\nd'"),
        ("fails", "ZeroDivisionError: division by zero (mine.py line 37) on the completion 'b\\nd'"),
        ("async_nan", "returned nan for the completion 'b\\nd'"),
        ("short", "returned 1 values for 2 completions"),
        ("nan", "returned nan for the completion 'b\\nd'"),
        ("infinite", "returned inf for the completion 'b\\nd'"),
        ("words", "returned str 'good' for the completion 'b\\nd'"),
        ("nothing", "returned NoneType"),
        ("one", "returned float"),
        ("text", "returned str"),
    ],
)
def test_a_faulty_function_is_named_with_the_completion_at_fault(user: str, function: str, words: str) -> None:
    name = f"{user}:{function}"
    with pytest.raises(UserError) as caught:
        score({name: 1.0}, ["a", "b\nd"])
    message = str(caught.value)
    assert f'rewards."{name}"' in message and words in message and "\n" not in message


def test_a_function_without_further_columns_gets_those_it_names(user: str) -> None:
    assert score({f"{user}:names_one": 1.0}, ["a", "b"]).totals == (0.5, 0.5)


def test_a_long_completion_is_shown_shortened(user: str) -> None:
    with pytest.raises(UserError) as caught:
        score({f"{user}:nan": 1.0}, ["a", "\x1b[31m" + "z" * 10**6])
    assert (
        "[1000005 characters]" in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 500
    )


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"corect": 1.0}, 'rewards.corect: no such reward; did you mean "correct"? known: correct, format'),
        ({"zzz": 1.0}, "no such reward; known: correct"),
        ({}, "no reward has a weight above 0"),
        ({"correct": 0.0}, "no reward has a weight above 0"),
        ({"correct": float("nan")}, "rewards.correct=nan"),
        ({"correct": float("inf")}, "rewards.correct=inf"),
        ({"correct": 1.0, "format": -0.1}, "rewards.format=-0.1"),
        ({"correct": 1.0, "format_always": 0.25}, "rewards.format_always=0.25: a wrong answer in perfect form"),
        ({"correct": 0.1, "format_always": 0.1}, "rewards.format_always=0.1"),
        ({"nowhere.py:f": 1.0}, "no such file nowhere.py"),
        ({"mathgrpo.rewards:f": 1.0}, "no such file"),
        ({":": 1.0}, "no such file"),
    ],
)
def test_a_suite_that_cannot_be_is_refused_when_it_is_built(weights: dict[str, float], words: str) -> None:
    with pytest.raises(UserError) as caught:
        build_suite(weights, get_format("xml"))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_does_not_load_or_has_no_such_function_is_refused(user: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nraise RuntimeError('no\\nway')\n")
    for name, words in (
        (f"{user}:lenght", "its functions: async_nan"),
        (f"{user}:constant", "no function"),
        (f"{tmp_path}/broken.py:f", "line 2"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            build_suite({name: 1.0}, get_format("xml"))
        assert "\n" not in str(caught.value)


def test_weights_of_the_form_are_free_when_a_users_reward_takes_part(user: str) -> None:
    build_suite({"format_always": 1.0, f"{user}:length": 1.0}, get_format("xml"))


def test_one_score_per_completion_in_order_whatever_they_hold() -> None:
    texts = ["18", "", "🎉", "9" * 10**6, "<answer><answer>18</answer></answer>", "#### 18", "\x00"]
    assert score(SOUND_WEIGHTS, texts).totals == (0.25, 0, 0, 0, 0, 0.25, 0)
    assert score(SOUND_WEIGHTS, []).totals == ()


@settings(max_examples=100)
@given(st.lists(st.text(max_size=40), max_size=4))
def test_no_text_crashes_the_default_suite(texts: list[str]) -> None:
    assert all(0 <= total <= 1.1 for total in score(SOUND_WEIGHTS, texts).totals)


def test_columns_of_another_length_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="answer has 1 rows for 2 completions"):
        build_suite(SOUND_WEIGHTS, get_format("xml")).score(
            ["", ""], ["a", "b"], {"answer": ["1"], "question": ["", ""]}
        )
