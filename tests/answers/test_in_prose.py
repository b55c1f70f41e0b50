"""What a completion says outside a mark is read whole or not at all, and what takes a marked answer back counts."""

from __future__ import annotations

import time

import pytest

from mathgrpo.answers import flexible_answer, grade_completion
from mathgrpo.answers.in_prose import formulas, last_expression
from mathgrpo.formats import get_format

XML, BOXED = get_format("xml"), get_format("boxed")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is $\\frac{3}{4}$.", "\\frac{3}{4}"),
        ("Solving, $x = 5$", "5"),
        ("Therefore, $$y=3$$", "3"),
        ("Hence\n\\[ x = \\frac{1}{2}. \\]", "\\frac{1}{2}"),
        ("So \\(3 \\cdot 4 = 12\\) eggs.", "12"),
        ("The final answer is: $\\sqrt{51}$", "\\sqrt{51}"),
        ("The answer is:\n\n$$\ny = 3\n$$", "3"),
        ("The answer is **$\\pi$**.", "\\pi"),
        ("the line is $y = 2x + 1$.", "y = 2x + 1"),
        ("\\begin{align*} 2x &= 10 \\\\ x &= 5 \\end{align*}", "5"),
        ("$$\\begin{aligned} 2x &= 10 \\\\ x &= 5 \\end{aligned}$$", "5"),
        ("The answer is $3$ or $4$.", None),
        ("so $x = 3$ or so, in 7 days", "7"),
        ("so it is 3x+2", "3x+2"),
        ("so it is 3x + 2.", "3x + 2"),
        ("we get 5 - x", "5 - x"),
        ("which is √51", "√51"),
        ("that gives \\frac{1}{2}", "\\frac{1}{2}"),
        ("so 2\\sqrt{3}.", "2\\sqrt{3}"),
        ("the point (2,3)", "(2,3)"),
        ("it was f(3)", "f(3)"),
        ("the total is (18)", "18"),
        ("we have x=5.", "5"),
        ("it is 52_8", "52_8"),
        ("at 3:30 PM.", "3:30 PM"),
        ("the ratio is 2:3", "2:3"),
        ("ran 5km", "5km"),
        ("a total - 5 apples", "5"),
        ("an 18-year-old", None),
        ("The answer is 3x+2", "3x+2"),
        ("The answer is (B).", "(B)"),
        ("The answer is (2, 3).", "(2, 3)"),
        ("the answer is 2, 3, 5", "2, 3, 5"),
        ("the answer is [0, 9)", "[0, 9)"),
        ("the answer is $5$ cm^2.", "5"),
        ("The answer is 5 and 7.", None),
        ("The answer is $x=3$ and $y=4$.", None),
        ("It costs $5 and $6, so $11", "$11"),
        ("9*2 = $18", "$18"),
        ("**18**", "18"),
    ],
)
def test_an_expression_is_taken_whole_or_not_at_all(text: str, answer: str | None) -> None:
    assert flexible_answer(text) == answer


TAILS = [
    (" that is wrong, 1261", False),
    ("\nActually the answer is 1261", False),
    ("\nIgnore the above, the answer is 1261", False),
    (" or 1261", False),
    (", 1261, 1262", False),
    ("\nWait, 1261.", False),
    ("\n1261", False),
    ("\nSorry, it should be $1261$.", False),
    ("\n#### 1261", False),
    ("\n\\boxed{1261}", False),
    (" That is not correct.", False),
    ("\nNo, the answer is 1260 or 1261.", False),
    ("\nFinal: 1261?", False),
    (" -> 1261", False),
    ("\nResult = 1261", False),
    ("; alternatively 1261", False),
    (" \\pmod{1300}", True),
    (" (mod 1300)", True),
    (", which is 3 times as much", True),
    (" (not 1261)", True),
    ("\nThe answer is 1260.", True),
    (" eggs.", True),
    ("\nWait, let me check: 1000 + 260 = 1260.", True),
    ("\n#### 1260", True),
    (" (that is 3 times 420)", True),
    ("\nI hope it is correct.", True),
]


@pytest.mark.parametrize(("tail", "right"), TAILS)
def test_a_marked_answer_that_is_taken_back_is_none(tail: str, right: bool) -> None:
    for fmt in (XML, BOXED, get_format("think"), get_format("working_out")):
        graded = grade_completion(fmt.write("420 * 3 = 1260", "1260").rstrip() + tail, "1260", fmt)
        assert graded.verdict == ("correct" if right else "ambiguous"), fmt.name
        assert (graded.format_soft, graded.flexible_verdict == "correct") == (right, right)
    assert (flexible_answer("so \\boxed{1260}" + tail) == "1260") is right


def test_the_final_answer_stands_behind_the_thinking() -> None:
    for final in ("The answer is 1261.", "So $x = 1261$.", "\\boxed{1261}", "1261"):
        text = f"<think>\nso \\boxed{{1260}}\n</think>\n\n{final}"
        for fmt in (BOXED, XML):
            assert grade_completion(text, "1260", fmt).verdict != "correct"
            assert grade_completion(text, "1260", fmt).flexible_verdict != "correct"
    assert flexible_answer("<think>\nso \\boxed{1260}\n</think>\n\nThe answer is 1261.") == "1261"
    assert flexible_answer("<think>\nso \\boxed{1260}\n</think>") == "1260"


def test_a_box_of_the_question_is_no_answer() -> None:
    question = "Which number goes into the box: 3 + \\boxed{x} = 7?"
    text = "We solve 3 + \\boxed{x} = 7, so x = 4.\n\n\\boxed{4}"
    assert grade_completion(text, "4", BOXED, question=question).format_strict
    assert grade_completion(text, "4", BOXED).verdict == "ambiguous"
    assert grade_completion("Put it into \\boxed{}: \\boxed{4}", "4", BOXED).verdict == "correct"
    assert grade_completion("so \\boxed{x}", "4", BOXED, question=question).verdict == "refused"


@pytest.mark.parametrize(
    "text",
    ["$" * 300_000,
     "\\(" * 200_000, "$x" * 100_000, "1+" * 200_000, "(1" * 200_000, " + 1" * 200_000, "1 - x" * 100_000,
     "\\boxed{1} or " * 50_000, "answer is 1 " * 50_000, "<answer>1" * 100_000, "\\frac{1}{" * 50_000],
    ids=range(11),
)  # fmt: skip
def test_hostile_prose_is_read_in_bounded_time(text: str) -> None:
    started = time.perf_counter()
    last_expression(text), formulas(text), flexible_answer(text)
    grade_completion("<answer>1</answer>" + text, "1", XML)
    assert time.perf_counter() - started < 2.0
