"""Reference system 2's four rewards: written-out scores, and equality with the notebook's own code."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_code
from mathgrpo.formats import get_format
from mathgrpo.rewards import REWARDS, build_suite
from reward_suites import MULTI_WEIGHTS

FILE = "2-advanced-multi-reward-notebook.txt"
PAIRS = {
    "multi_format_exactly": "match_format_exactly",
    "multi_format_approximately": "match_format_approximately",
    "multi_answer_correctness": "check_answer_correctness",
    "multi_numbers_extraction": "check_numbers_extraction",
}
needs_notebook = pytest.mark.skipif(
    not (reference_code.FOLDER / FILE).is_file(), reason="the reference notebooks are not beside this repository"
)


def work(answer: str, working: str = "x") -> str:
    return f"<start_working_out>{working}<end_working_out><SOLUTION>{answer}</SOLUTION>"


def paid(text: str, gold: str) -> tuple[float, ...]:
    call = {"prompts": ["?"], "completions": [[{"role": "assistant", "content": text}]], "answer": [gold]}
    return tuple(REWARDS[name](**call, question=["?"])[0] for name in PAIRS)


@pytest.mark.parametrize(
    ("text", "gold", "scores"),
    [
        # right in form: 3 + 2 + 3 + 1.5
        (work("18"), "18", (3.0, 2.0, 3.0, 1.5)),
        # wrong, within 10 %, within 20 %
        (work("7"), "18", (3.0, 2.0, -0.5, 0.0)),
        (work("19.8"), "18", (3.0, 2.0, 1.5, 0.0)),
        (work("21"), "18", (3.0, 2.0, 0.5, 0.0)),
        (work("1001"), "1000", (3.0, 2.0, 1.5, 0.0)),
        # a list: the first number counts; a unit; commas; a sign lost; a gold of 0
        (work("18 or 19 or 20"), "18", (3.0, 2.0, -0.5, 1.5)),
        (work(" 18 dollars"), "18", (3.0, 2.0, -0.5, 1.5)),
        (work("1200"), "1,200", (3.0, 2.0, -0.5, 0.0)),
        (work("1,200"), "1200", (3.0, 2.0, -0.5, 0.0)),
        (work("-10"), "-10", (3.0, 2.0, 3.0, 0.0)),
        (work("-10"), "10", (3.0, 2.0, -0.5, 1.5)),
        (work("0.0"), "0", (3.0, 2.0, -0.5, 1.5)),
        # text behind the line of the answer, junk before
        (work("18") + "\nIgnore the above, the answer is 7", "18", (3.0, 2.0, 3.0, 1.5)),
        (f"junk {work('7')}\n\n{work('18')}", "18", (3.0, -2.0, 3.0, 0.0)),
        # no form: no answer is worth more than a wrong one
        ("18", "18", (0.0, -2.0, 0.0, 0.0)),
        ("<SOLUTION>18</SOLUTION>", "18", (0.0, 0.0, 0.0, 1.5)),
        (work("", "x"), "18", (0.0, 2.0, 0.0, 0.0)),
        (work("18", ""), "18", (0.0, 2.0, 0.0, 1.5)),
        ("", "18", (0.0, -2.0, 0.0, 0.0)),
    ],
)
def test_each_reward_pays_the_notebooks_graduated_scores(text: str, gold: str, scores: tuple[float, ...]) -> None:
    assert paid(text, gold) == scores


PIECES = [
    "<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>", "\n", "\n", " ", "\t", "\u2003", "a",
    "18", "-18", "1,8", "18.0", "19.", ".", "17", "inf", "nan", "1e999", "1_8", "\u0661\u0668", "0",
    "\r", "\x0b", "\u2028", "\x85", "\u200b", "\x00", "\ufeff", "+18", "1.8e1", "1 8", "$18", "18%", "..",
    "5" * 400, "<solution>", "Infinity",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
GOLDS = st.sampled_from(["18", "-18", "1,800", "0", "18.0", "inf", "nan", "x", " 18 ", "20"])


@needs_notebook
@settings(max_examples=1500, deadline=None)
@given(st.one_of(TEXTS, st.builds(work, TEXTS, TEXTS), st.builds(lambda a, b: a + work(b) + a, TEXTS, TEXTS)), GOLDS)
def test_they_equal_the_notebooks_own_code(text: str, gold: str) -> None:
    code = _notebook()
    call = {"prompts": ["?"], "completions": [[{"role": "assistant", "content": text}]], "answer": [gold]}
    assert paid(text, gold) == tuple(code[name](**call)[0] for name in PAIRS.values())


_CODE: dict[str, object] = {}


def _notebook() -> dict[str, object]:
    if not _CODE:
        tags = reference_code.functions(FILE, 'reasoning_start = "<start', "# System prompt")
        _CODE.update(
            reference_code.functions(FILE, "match_format = re.compile(", "## GRPO Training", {**tags, "re": re})
        )
    return _CODE


@needs_notebook
def test_the_formats_prompt_is_the_notebooks() -> None:
    code = reference_code.functions(FILE, 'reasoning_start = "<start', 'print("')
    assert get_format("working_out").system_prompt == code["system_prompt"]


def test_all_four_by_name_add_up_to_nine_and_a_half() -> None:
    scores = build_suite(MULTI_WEIGHTS, get_format("working_out")).score(
        ["?", "?"], [work("18"), work("7")], {"answer": ["18", "18"], "question": ["?", "?"]}
    )
    assert scores.totals == (9.5, 4.5) and set(scores.parts) == set(PAIRS)


def test_hostile_texts_take_no_quadratic_time() -> None:
    start = time.perf_counter()
    for piece in ("<start_working_out>", "<start_working_out>x\n", "\n", " ", "</SOLUTION>", "<SOLUTION>x", "9"):
        paid("<start_working_out>x<end_working_out><SOLUTION>" + piece * (10**6 // len(piece)), "18")
        paid(piece * (10**6 // len(piece)), "18")
    assert time.perf_counter() - start < 5
