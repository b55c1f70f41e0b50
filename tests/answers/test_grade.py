import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathgrpo.answers import gold_problem, grade
from mathgrpo.answers.question_asks import asks_percentage

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("18", "18", "correct"),
        ("19", "18", "wrong"),
        (None, "18", "no_answer"),
        (" \n", "18", "no_answer"),
        ("18 or 19", "18", "refused"),
        ("1200", "1,200", "correct"),
        ("-10", "10", "wrong"),
        ("18.0001", "18", "wrong"),
        ("0.5", "1/2", "correct"),
        ("0.333333", "1/3", "wrong"),
        ("18 eggs", "18 dollars", "wrong"),
        ("18", "18 dollars", "correct"),
        ("$18", "18 dollars", "correct"),
        ("5 m", "5 cm", "wrong"),
        ("18 dollars per day", "$18", "correct"),
        ("18", "", "error"),
        ("18", "seventeen eggs", "error"),
        ("50", "50%", "correct"),
        ("50%", "50%", "correct"),
        ("0.5", "50%", "wrong"),
        ("50%", "0.5", "correct"),
        ("50%", "50", "wrong"),
    ],
)
def test_verdicts(answer: str | None, gold: str, verdict: str) -> None:
    assert grade(answer, gold) == verdict


def test_a_percent_sign_means_what_the_question_asks() -> None:
    asked = "She works 4 of 8 hours. What percentage of her day is that?"
    assert grade("50%", "50", question=asked) == "correct"
    assert grade("0.5", "50", question=asked) == "wrong"
    assert grade("50%", "50", question="With 20% off, how much does she pay?") == "wrong"


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("What percent is left?", True),
        ("He ate 20% of it. How many are left?", False),
        ("What is 25 percent of 8?", False),
        ("By what % did it grow?", True),
        ("", False),
        ("It is 5 percent. Give the percentage growth.", True),
    ],
)
def test_what_counts_as_asking_for_a_percentage(question: str, asked: bool) -> None:
    assert asks_percentage(question) is asked


@pytest.mark.parametrize("gold", ["18", "1,200", "-5", "3/4", "18 eggs", "\\frac{1}{2}", "50%"])
def test_a_number_is_a_readable_gold(gold: str) -> None:
    assert gold_problem(gold) is None


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        ("", "empty"),
        ("{}", "empty"),
        ("17 18 19", "several numbers"),
        ("18 or 19", "text"),
        ("unknown", "text"),
        ("n/a", "text"),
        ("seventeen eggs", "text"),
        ("5-", "compared"),
        ("18 seems wrong", "no unit"),
        ("9" * 700, "700 characters"),
    ],
)
def test_an_unreadable_gold_is_told_in_words(gold: str, words: str) -> None:
    assert words in str(gold_problem(gold))


@pytest.mark.shared
@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_every_gsm8k_gold_is_read_and_right_against_itself(split: str, rows: int) -> None:
    path = SHARED / "data" / "gsm8k" / f"{split}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path.name} in ../shared/data/gsm8k")
    golds = [json.loads(line)["answer"].rpartition("####")[2].strip() for line in path.read_text().splitlines()]
    assert len(golds) == rows
    assert [gold for gold in golds if gold_problem(gold) or grade(gold.replace(",", ""), gold) != "correct"] == []


@given(st.text(max_size=60), st.sampled_from(["18", "1,200", "-5", "1/2"]))
def test_no_text_crashes_the_grader(answer: str, gold: str) -> None:
    assert grade(answer, gold) in ("correct", "wrong", "no_answer", "refused")
