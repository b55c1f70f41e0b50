import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.answers import Graded, flexible_answer, grade_completion
from mathgrpo.answers.grade import has_equation
from mathgrpo.formats import FORMATS, get_format
from reward_defects import DEFECTS, Defect


@pytest.mark.parametrize("row", DEFECTS, ids=lambda row: str(row.number))
def test_reward_defects_get_the_fair_verdict(row: Defect) -> None:
    graded = grade_completion(row.text, row.gold, get_format(row.fmt), question=row.question)
    assert (graded.verdict, graded.flexible_verdict) == (row.verdict, row.flexible)


def test_all_ninety_six_defects_are_in_the_table() -> None:
    assert [row.number for row in DEFECTS] == list(range(1, 97))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", None),
        ("no number", None),
        ("<answer>7</answer> #### 18", None),
        ("<SOLUTION>7</SOLUTION>", "7"),
        ("\\boxed{7} #### 18", None),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{7", None),
        ("#### 7\nso 18", "7"),
        ("####\n18", None),
        ("Answer: 7. Then 18", "7"),
        ("the answer is 7, no, the answer is 8", "8"),
        ("The final answer is: 9*2=18", "18"),
        ("answer is that she has 7 eggs.", "7"),
        ("answer is hard. 3 then 4", "4"),
        ("from 18 to 20.", "20"),
        ("16/2=8", "8"),
        ("$1,200, at most", "$1,200"),
        ("minus -$5", "-$5"),
        ("half, 1/2", "1/2"),
        ("8-3", "8-3"),
        ("8 - 3", "8 - 3"),
        ("room B18 and x2", None),
        ("\u0661\u0668", None),
        ("grew by 50%", "50%"),
        ("7 🎉", "7"),
        ("\\boxed{18} \\boxed{18.0}", "18"),
        ("\\boxed{18} \\boxed{19}", None),
    ],
)
def test_flexible_answer_follows_its_documented_order(text: str, answer: str | None) -> None:
    assert flexible_answer(text) == answer


def test_the_formats_answer_comes_first() -> None:
    assert grade_completion("<answer>7</answer> \\boxed{18}", "18", get_format("boxed")).found == "18"


def test_graded_has_everything_about_one_completion() -> None:
    text = "<reasoning>\n16 - 3 - 4 = 9\n9 * $2 = $18\n</reasoning>\n<answer>\n$18\n</answer>"
    assert grade_completion(text, "18", get_format("xml")) == Graded(
        "16 - 3 - 4 = 9\n9 * $2 = $18", "$18", "$18", "correct", "correct", True, True, True
    )


def test_strict_is_in_the_format_and_flexible_anywhere() -> None:
    graded = grade_completion("It is 9*2 = 18.", "18", get_format("xml"))
    assert graded == Graded(None, None, "18", "no_answer", "correct", False, False, True)


@pytest.mark.parametrize(
    ("reasoning", "worked"),
    [
        ("16 - 3 - 4 = 9", True),
        ("48/2 = <<48/2=24>>24", True),
        ("3 eggs + 4 eggs = 7 eggs", True),
        ("9 * 2 = $18", True),
        ("2*3=-6", True),
        ("x = 9", False),
        ("I guess 18", False),
        ("", False),
        ("9 =", False),
        ("7\n= 8", False),
        ("7 ==", False),
        ("٣ = ٤", False),
    ],
)
def test_worked_means_an_equation_with_numbers_on_both_sides(reasoning: str, worked: bool) -> None:
    assert has_equation(reasoning) is worked


HOSTILE = [
    "",
    "🎉" * 1000,
    "9" * 10**6,
    "<answer>" * 100_000,
    "<answer>1</answer>" * 50_000,
    "\\boxed{" * 100_000,
    "{" * 10**6,
    "#" * 10**6,
    "=1" * 300_000,
    "1-" * 300_000,
    "answer is " * 100_000,
    "<reasoning>" * 50_000 + "</reasoning>" * 50_000,
    "\x00\ud800",
    "1" + " " * 10**6,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_completions_are_graded_in_bounded_time(text: str) -> None:
    start = time.perf_counter()
    for fmt in (get_format("xml"), get_format("boxed")):
        assert grade_completion(text, "18", fmt).verdict in ("no_answer", "refused", "wrong")
    assert time.perf_counter() - start < 4.0


PIECES = [
    "<answer>",
    "</answer>",
    "<reasoning>",
    "</reasoning>",
    "\\boxed{",
    "}",
    "####",
    "18",
    "answer is",
    "=",
    "\n",
    "-",
    "🎉",
    "1,2",
]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join), st.sampled_from(sorted(FORMATS))
)
def test_no_completion_crashes_and_strict_correct_implies_flexible_correct(text: str, name: str) -> None:
    graded = grade_completion(text, "18", get_format(name))
    assert graded.verdict != "correct" or graded.flexible_verdict == "correct"
    assert not graded.format_strict or graded.format_soft


@given(st.integers(-(10**9), 10**9), st.sampled_from(sorted(FORMATS)))
def test_what_a_format_writes_is_correct_in_it(gold: int, name: str) -> None:
    fmt = get_format(name)
    graded = grade_completion(fmt.write("2 * 3 = 6", f"{gold:,}"), str(gold), fmt)
    assert graded == Graded("2 * 3 = 6", f"{gold:,}", f"{gold:,}", "correct", "correct", True, True, True)
