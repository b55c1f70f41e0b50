import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_code
from mathgrpo.formats import get_format
from mathgrpo.rewards import REWARDS, build_suite
from reward_suites import REFERENCE_WEIGHTS

NAMES = ("correctness", "integer", "strict_format", "soft_format", "xml_count")
XML = "<reasoning>\n{}\n</reasoning>\n<answer>\n{}\n</answer>\n"


def paid(text: str, gold: str) -> tuple[float, ...]:
    call = {
        "prompts": ["?"],
        "completions": [[{"role": "assistant", "content": text}]],
        "answer": [gold],
        "question": ["?"],
    }
    return tuple(REWARDS[f"reference_{name}"](**call)[0] for name in NAMES)


@pytest.mark.parametrize(
    ("text", "gold", "rewards"),
    [
        # a right answer in perfect form: 2 + 0.5 + 0.5 + 0.5 + 4 * 0.125
        (XML.format("9 * 2 = 18", "18"), "18", (2.0, 0.5, 0.5, 0.5, 0.5)),
        # several lines of reasoning count too, this notebook reads them as one
        (XML.format("line 1\nline 2", "18"), "18", (2.0, 0.5, 0.5, 0.5, 0.5)),
        # defects 1 and 2: a wrong answer, an empty reasoning
        (XML.format("...", "7"), "18", (0.0, 0.5, 0.5, 0.5, 0.5)),
        (XML.format("", "7"), "18", (0.0, 0.5, 0.5, 0.5, 0.5)),
        # defect 4: everything empty still has its soft form and its tags
        ("<reasoning></reasoning><answer></answer>", "18", (0.0, 0.0, 0.0, 0.5, 0.5)),
        # defect 5: no tags, so the whole text is the answer
        ("18", "18", (2.0, 0.5, 0.0, 0.0, 0.0)),
        # defect 6: the last of two answers; <answer> and </answer> are 2 * 0.125
        ("<answer>7</answer><answer>18</answer>", "18", (2.0, 0.5, 0.0, 0.0, 0.25)),
        # defect 7: </answer> alone
        ("18</answer> or 19 </answer>", "18", (2.0, 0.5, 0.0, 0.0, 0.125)),
        # defects 8 and 9: digits that are no ASCII digits
        (XML.format("r", "\u0661\u0668"), "18", (0.0, 0.5, 0.5, 0.5, 0.5)),
        (XML.format("r", "²"), "18", (0.0, 0.5, 0.5, 0.5, 0.5)),
        # defects 61 to 66: right answers written in another way, equality is that of strings
        (XML.format("r", "1200"), "1,200", (0.0, 0.5, 0.5, 0.5, 0.5)),
        (XML.format("r", "1,200"), "1200", (0.0, 0.0, 0.5, 0.5, 0.5)),
        (XML.format("r", "-10"), "-10", (2.0, 0.0, 0.5, 0.5, 0.5)),
        (XML.format("r", "$18"), "18", (0.0, 0.0, 0.5, 0.5, 0.5)),
        # defect 68: no line break at the end
        (XML.format("r", "18").rstrip("\n"), "18", (2.0, 0.5, 0.0, 0.5, 0.5)),
        # text behind the answer: soft only. Text before: neither. Tags anywhere count.
        (XML.format("r", "18") + "bye", "18", (2.0, 0.5, 0.0, 0.5, 0.5)),
        ("hm " + XML.format("r", "18"), "18", (2.0, 0.5, 0.0, 0.0, 0.5)),
        ("", "18", (0.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_each_reward_pays_what_the_notebook_pays(text: str, gold: str, rewards: tuple[float, ...]) -> None:
    assert paid(text, gold) == rewards


PIECES = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", "\n", " ", "a", "18"]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.booleans())
def test_form_is_matched_as_by_backtracking_patterns(text: str, whole: bool) -> None:
    text = XML.format(text, text) if whole else text
    strict = re.match("^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$", text, re.DOTALL)
    soft = re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", text, re.DOTALL)
    assert paid(text, "18")[2:4] == (0.5 if strict else 0.0, 0.5 if soft else 0.0)


def test_a_million_tags_take_no_quadratic_time() -> None:
    start = time.perf_counter()
    paid("<reasoning>" + "</reasoning><answer>" * 50_000, "18")
    paid("<reasoning>\n" + "\n</reasoning>\n<answer>\n" * 50_000, "18")
    assert time.perf_counter() - start < 5.0


def test_all_five_by_name_add_up() -> None:
    suite = build_suite(REFERENCE_WEIGHTS, get_format("xml"))
    columns = {"answer": ["18", "18"], "question": ["?", "?"]}
    scores = suite.score(["?", "?"], [XML.format("9 * 2 = 18", "18"), XML.format("r", "7")], columns)
    assert scores.totals == (4.0, 2.0)
    assert set(scores.parts) == {f"reference_{name}" for name in NAMES}


FILE = "1-qwen-math-rl-notebook.txt"
CODE = {
    "correctness": "correctness_reward_func", "integer": "int_reward_func",
    "strict_format": "strict_format_reward_func",
    "soft_format": "soft_format_reward_func", "xml_count": "xmlcount_reward_func",
}  # fmt: skip
HOSTILE = [
    *PIECES, "\r", "\x0b", "\u2028", "\x85", "\t", "\u200b", "\ufeff", "\u202e", "\x00", "\ud800", "١٨", "²", "①",
    "½", "-18", "1,200",
    "<Answer>", "</answer >", "<answer", "\\n", "18\n</answer>\n<answer>\n19", "<reasoning>\n</reasoning>\n",
]  # fmt: skip


@pytest.mark.skipif(
    not (reference_code.FOLDER / FILE).is_file(), reason="the reference notebooks are not beside this repository"
)
@settings(max_examples=1500, deadline=None)
@given(
    st.one_of(
        st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=4)), max_size=14).map("".join),
        st.builds(XML.format, st.sampled_from(HOSTILE), st.sampled_from(HOSTILE)),
        st.builds(lambda a, b, c: a + XML.format(b, a) + c, *[st.sampled_from(HOSTILE)] * 3),
    ),
    st.sampled_from(["18", "-18", "1,200", "²", "", "1,200\u200b"]),
)
def test_they_equal_the_notebooks_own_code(text: str, gold: str) -> None:
    call = {"prompts": ["?"], "completions": [[{"role": "assistant", "content": text}]], "answer": [gold]}
    assert paid(text, gold) == tuple(_notebook()[name](**call)[0] for name in CODE.values())


_CODE: dict[str, Any] = {}


def _notebook() -> dict[str, Any]:
    if not _CODE:
        answer = reference_code.functions(FILE, "def extract_xml_answer", "def extract_hash_answer")
        _CODE.update(reference_code.functions(FILE, "def correctness_reward_func", "# 4.", {**answer, "re": re}))
    return _CODE
