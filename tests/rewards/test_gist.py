"""The gist's three form rewards: written-out scores, and equality with the patterns they stand for."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathgrpo.formats import get_format
from mathgrpo.rewards import REWARDS, build_suite
from reward_suites import GIST_WEIGHTS

XML = "<reasoning>\n{}\n</reasoning>\n<answer>\n{}\n</answer>\n"


def paid(text: str) -> tuple[float, float, float]:
    call = {"prompts": ["?"], "completions": [[{"role": "assistant", "content": text}]], "answer": ["18"]}
    strict, soft, count = (REWARDS[f"gist_{name}"](**call)[0] for name in ("strict_format", "soft_format", "xml_count"))
    return strict, soft, count


@pytest.mark.parametrize(
    ("text", "strict", "soft", "count"),
    [
        (XML.format("r", "18"), 0.5, 0.0, 0.5),
        # two lines of reasoning lose the strict form
        (XML.format("a\nb", "18"), 0.0, 0.0, 0.5),
        ("<reasoning>r</reasoning><answer>18</answer>", 0.0, 0.5, 0.0),
        ("<reasoning></reasoning><answer></answer> and more", 0.0, 0.5, 0.0),
        # no line break at the end: the third tag's term subtracts the whole text's 48 characters, the fourth's adds 1
        (XML.format("r", "18").rstrip("\n"), 0.0, 0.0, 0.5 - 0.048 + 0.001),
        # 2,000 characters of reasoning: 48 - 1 + 2000
        (XML.format("x" * 2000, "18").rstrip("\n"), 0.0, 0.0, 0.5 - 2.047 + 0.001),
        (XML.format("r", "18") + "12345", 0.0, 0.0, 0.5 - 0.005 - 0.005),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_each_reward_pays_what_the_gist_pays(text: str, strict: float, soft: float, count: float) -> None:
    assert paid(text) == (strict, soft, pytest.approx(count))


PIECES = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", "\n", " ", "\u2028", "a", "18"]


@settings(max_examples=800)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.booleans())
def test_form_is_matched_as_by_backtracking_patterns(text: str, led: bool) -> None:
    text = "<reasoning>" + text if led else text
    soft = re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", text)
    assert paid(text)[1] == (0.5 if soft else 0.0)


def test_hostile_texts_take_no_quadratic_time() -> None:
    start = time.perf_counter()
    paid("<reasoning>" + "</reasoning><answer>" * 50_000)
    paid("<reasoning>\n" + "\n</reasoning>\n<answer>\n" * 50_000)
    paid("<reasoning>" + "</reasoning>" + " " * 10**6)
    assert time.perf_counter() - start < 5


def test_all_five_by_name_add_up() -> None:
    suite = build_suite(GIST_WEIGHTS, get_format("xml"))
    scores = suite.score(["?"], [XML.format("9 * 2 = 18", "18")], {"answer": ["18"], "question": ["?"]})
    assert scores.totals == (3.5,) and len(scores.parts) == 5
