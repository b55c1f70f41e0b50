"""What a recipe counts as correct: the setting's grammar, its default, and what verdicts become by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mathgrpo.config.recipe import EvaluationSection, Recipe
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.rewards import build_suite, recipe_suite
from mathgrpo.rewards.criterion import Criterion, criterion_note
from mathgrpo.rewards.pre_run_check import grades_golds, require_judged, try_rewards
from mathgrpo.types import Problem

XML = get_format("xml")
PLAIN, TASK = Problem("9 times 2?", "18"), Problem("Make 18.", "18", columns={"nums": [9, 2], "target": 18})


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A user's function that pays 0.25 for each of the words it looks for, None for an empty text."""
    path = tmp_path / "my checks.py"
    path.write_text(
        "def found(completions, completion_ids, trainer_state, **columns):\n"
        "    assert trainer_state is None\n"
        "    texts = [turn[0]['content'] for turn in completions]\n"
        "    return [sum(word in text for word in ('a', 'b', 'c', 'd')) / 4 if text else None for text in texts]\n"
    )
    return f"{path}:found"


@pytest.mark.parametrize(
    ("setting", "weights", "expected"),
    [
        ("answer", {"countdown": 1.0}, "None"),
        ("countdown", {"countdown": 1.0}, "countdown >= 1"),
        ("countdown >= 1", {"countdown": 0.0, "correct": 1.0}, "countdown >= 1"),
        (" countdown≥0.5 ", {"countdown": 1.0}, "countdown >= 0.5"),
        ("near_answer>=0.16666666666666666", {"near_answer": 1.0}, "near_answer >= 0.16666666666666666"),
        ("integer", {"integer": 1.0}, "integer >= 1"),
        ("soft_overlong >= -0.5", {"correct": 1.0, "soft_overlong": 0.1}, "soft_overlong >= -0.5"),
        # What a suite is about, where nothing is said.
        ("auto", {"correct": 1.0, "format": 0.1}, "None"),
        ("auto", {"countdown": 1.0, "format_parts": 0.1}, "countdown >= 1"),
        ("auto", {"countdown": 1.0, "format": 0.1}, "countdown >= 1"),
        ("auto", {"countdown": 0.5, "correct": 1.0}, "countdown >= 1"),
        ("auto", {"countdown": 0.0, "correct": 1.0}, "None"),
    ],
)
def test_settings(setting: str, weights: dict[str, float], expected: str) -> None:
    assert str(build_suite(weights, XML, max_new_tokens=64, correct=setting).correct) == expected


@pytest.mark.parametrize(
    ("setting", "weights", "words"),
    [
        ("", {"correct": 1.0}, 'evaluation.correct="": nothing given; use "answer", or a reward'),
        ("countdwn", {"countdown": 1.0}, 'no such reward; did you mean "countdown"?'),
        ("anwser", {"countdown": 1.0}, 'did you mean "answer"?'),
        ("countdown", {"correct": 1.0}, "is not in [rewards]; add rewards.countdown=0 to measure it unpaid"),
        ("x.py:f >= 1", {"correct": 1.0}, 'add rewards."x.py:f"=0'),
        ("countdown >= one", {"countdown": 1.0}, '"one" is no number; use a number above 0 and at most 1, as in'),
        ("countdown >=", {"countdown": 1.0}, 'the threshold "" is no number'),
        ("countdown >= nan", {"countdown": 1.0}, "is no number"),
        ("countdown >= 1.5", {"countdown": 1.0}, "pays 0 to 1, so the threshold tells nothing apart"),
        ("countdown >= 0", {"countdown": 1.0}, "pays 0 to 1"),
        ("answer >= 0.5", {"countdown": 1.0}, "takes no threshold"),
        ("step_verified_reference", {"step_verified_reference": 1.0}, "pays without bound; say what"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(setting: str, weights: dict[str, float], words: str) -> None:
    with pytest.raises(UserError) as told:
        build_suite(weights, XML, correct=setting)
    line = str(told.value)
    assert line.startswith(f'evaluation.correct="{setting}": ') and words in line and "\n" not in line


def test_a_users_function_has_1_as_its_threshold_or_a_named_one(own: str) -> None:
    assert build_suite({own: 1.0}, XML, correct=own).correct == Criterion(own, 1.0)
    suite = build_suite({own: 1.0}, XML, correct=f"{own} >= 0.5")
    columns = {"answer": ["18"] * 3, "question": ["?"] * 3}
    texts = [XML.write("a b", "18"), XML.write("c", "18"), ""]
    verdicts = [graded.verdict for graded in suite.score(["?"] * 3, texts, columns, completion_ids=[[1]] * 3).grades]
    # The tags hold an a, so the second has two of four; the empty text is left to the grader.
    assert verdicts == ["correct", "correct", "no_answer"]
    with pytest.raises(UserError, match="threshold"):
        build_suite({own: 1.0}, XML, correct=f"{own} >= inf")


def test_what_a_function_cannot_do_without_it_gets_as_none(own: str) -> None:
    try_rewards(build_suite({own: 1.0}, XML), [PLAIN])


def test_where_the_reward_does_not_apply_the_answer_decides() -> None:
    suite = build_suite({"countdown": 1.0}, XML)
    columns = {"answer": ["18"] * 3, "question": ["?"] * 3, "nums": [[9, 9], [9, 9], None], "target": [18, 18, None]}
    texts = [XML.write("x", answer) for answer in ("9 + 9", "18", "18")]
    assert [g.verdict for g in suite.score(["?"] * 3, texts, columns).grades] == ["correct", "wrong", "correct"]
    assert [g.flexible_verdict for g in suite.score(["?"] * 3, texts, columns).grades] == [
        "correct",
        "wrong",
        "correct",
    ]


def test_before_a_run_the_reward_that_decides_must_apply() -> None:
    suite = build_suite({"countdown": 1.0}, XML)
    assert require_judged(suite, [TASK, TASK]) == ""
    assert require_judged(suite, [PLAIN, TASK]).startswith("1 of 2 held-out problems lack the column nums")
    with pytest.raises(UserError, match=r'^evaluation.correct="countdown >= 1": applies to none of the 1 held-out'):
        require_judged(suite, [PLAIN])
    assert require_judged(build_suite({"correct": 1.0}, XML), [PLAIN]) == ""


def test_golds_need_not_be_gradable_where_nothing_goes_by_them(own: str) -> None:
    assert not grades_golds(build_suite({own: 1.0}, XML, correct=own))
    assert grades_golds(build_suite({own: 1.0}, XML)) and grades_golds(
        build_suite({own: 1.0, "format": 0.1}, XML, correct=own)
    )


def test_what_auto_chose_is_said(own: str) -> None:
    assert criterion_note("auto", build_suite({"correct": 1.0}, XML)) == ""
    assert criterion_note("countdown", build_suite({"countdown": 1.0}, XML)) == ""
    assert criterion_note("auto", build_suite({"countdown": 1.0}, XML)).startswith("correct means countdown >= 1 where")
    note = criterion_note("auto", build_suite({own: 1.0, "format_parts": 0.1}, XML))
    assert "which no paid reward is about" in note and f'"{own} >= 1"' in note
    assert criterion_note("auto", build_suite({own: 1.0, "correct": 1.0}, XML)) == ""


def test_a_recipes_suite_goes_by_its_setting() -> None:
    recipe = Recipe(rewards={"countdown": 1.0}, evaluation=EvaluationSection(correct="countdown >= 0.5"))
    assert recipe_suite(recipe, XML).correct == Criterion("countdown", 0.5)
