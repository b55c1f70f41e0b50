"""Inputs that try to fool, break or slow down the rewards: what each pays is written out, and none leaves its range."""

from __future__ import annotations

import random
import time

import pytest

from mathgrpo.formats import FORMATS, get_format
from mathgrpo.rewards import CATALOGUE, build_suite
from mathgrpo.rewards.explained_score import explain
from mathgrpo.types import Problem
from reward_suites import SOUND, SOUND_WEIGHTS

XML = get_format("xml")

# Gold, what stands in the answer block, whether that is the gold.
ANSWERS: list[tuple[str, str, bool]] = [
    # digits and signs
    ("18", "18.", True), ("18", "018", True), ("18", "+18", True), ("18", "18.000", True),
    ("18", "18" + " " * 999, True),
    ("18", "0" * 500 + "18", True), ("18", "18." + "0" * 500, True), ("18", "0" * 700 + "18", False),
    ("18", "9" * 599, False), ("18", "9" * 10_000, False), ("18", "--18", False), ("18", "18-", False),
    ("-18", "\u221218", True), ("-18", "18", False), ("-18", "(18)", False), ("-18", "- 18", True), ("0", "-0", True),
    ("18", "\uff11\uff18", False), ("18", "\u0967\u096e", False), ("18", "\U0001d7cf\U0001d7d6", False),
    ("18", "\u2460\u2467", False), ("18", "\u2169\u2167", False), ("18", "XVIII", False), ("18", "eighteen", False),
    ("18", "0x12", False), ("18", "0b10010", False), ("18", "1_8", False), ("18", "1 8", False), ("18", "1,8", False),
    # exponents
    ("18", "1.8e1", True), ("18", "180E-1", True), ("18", "18e0", True), ("1000", "1e3", True), ("18", "1e999", False),
    ("18", "1e-999", False), ("18", "1e9999", False), ("0", "1e-999", False), ("0", "0e999", True),
    ("10", "1e1e0", False),
    # no finite number, and Python's words
    ("18", "nan", False), ("18", "inf", False), ("18", "-Infinity", False), ("1", "True", False), ("0", "False", False),
    ("0", "None", False), ("0", "[]", False), ("18", "18L", True), ("18", "18j", False),
    # computations left undone
    ("18", "36/2", False), ("18", "9*2", False), ("18", "9 times 2", False), ("6", "3!", False), ("18", "18!", False),
    ("8", "2^3", False), ("8", "2**3", False), ("0", "0/5", False), ("0", "1/0", False), ("0", "0/0", False),
    ("2", "\\sqrt{4}", False), ("18", "18 + 0", False), ("5", "|-5|", False),
    ("18", "__import__('os').getpid()", False),
    # fractions, decimals, thousands, per cent
    ("0.5", "1/2", True), ("0.5", "2/4", True), ("0.5", ".5", True), ("0.5", "50%", True), ("50", "50%", False),
    ("50%", "50", True), ("50%", "0.5", False), ("2.5", "2 1/2", True), ("2.5", "2\u00bd", True), ("2.5", "5/2", True),
    ("3.14", "22/7", False), ("1/3", "0.333333", False), ("1/3", "0.3333333333333333", False),
    ("18", "17.999999999", False),
    ("18", "18.0000000000000001", False), ("1,200", "1 200", False), ("1,200", "1.200,00", False),
    ("1200", "1'200", False),
    ("1200", "1,200.00", True), ("1200", "12,00", False), ("1/2", "\\frac{1}{2}", True), ("1/2", "\\frac{0}{0}", False),
    # several numbers, words that deny or rescale
    ("18", "18 or 18", False), ("18", "18, 18", False), ("18", "18\n19", False), ("18", "17 18 19", False),
    ("18", "18 million", False), ("18", "18k", False), ("12", "1 dozen", True), ("18", "18 minus one", False),
    ("18", "not 18", False), ("18", "18 apples", True), ("18", "18 is not it", False), ("18", "~18", False),
    # dress
    ("18", "**18**", True), ("18", "`18`", True), ("18", "```18```", True), ("18", "```\n18\n```", True),
    ("18", "$18$", True), ("18", "\\(18\\)", True), ("18", "\\boxed{18}", True),
    ("18", "\\boxed{18} or \\boxed{19}", False),
    ("18", "x = 18", True), ("18", "x = 18 = 18", False), ("18", "18 = x", False), ("18", "[18]", False),
    ("18", "{18}", True),
    ("18", "<b>18</b>", False), ("18", "```python\nprint(18)\n```", False), ("18", "Answer: 18", True),
    ("18", "\u00a318", True),
    ("$18", "\u00a318", False),
    # characters that are not seen, right to left
    ("18", "18\u200b", False), ("18", "1\u200b8", False), ("18", "\u200f18", False), ("18", "\u202e81", False),
    ("18", "\u202e18", False), ("18", "18\x00", False), ("18", "\ufeff18", False), ("18", "1\u03018", False),
    ("18", "18\u00a0", True), ("18", "\u0661\u0668", False), ("18", "\u06f1\u06f8", False), ("18", "\ud800", False),
]  # fmt: skip

# A completion for the gold 18, and what the default suite pays.
COMPLETIONS: list[tuple[str, float]] = [
    ("<answer><answer>18</answer></answer>", 0.0),
    ("<answer>18</answer>" * 2, 1.0),
    (XML.write("<answer>18</answer>", "18"), 1.05),
    (XML.write("<reasoning>nested</reasoning>", "18"), 1.05),
    (XML.write("r", "18") * 2, 1.05),
    ("<ANSWER>18</ANSWER>", 0.0),
    ("&lt;answer&gt;18&lt;/answer&gt;", 0.0),
    ("<ans\u200bwer>18</answer>", 0.0),
    ("<answer >18</answer >", 0.0),
    ("<answer>18", 0.0),
    ("18</answer>", 0.0),
    ("<answer></answer>18", 0.0),
    ("</answer>18<answer>", 0.0),
    ("<SOLUTION>18</SOLUTION>", 0.0),
    ("<answer>\n18\n</answer>\n<reasoning>\nr\n</reasoning>", 1.0),
    ("```xml\n" + XML.write("r", "18") + "```", 1.05),
    ("\ufeff" + XML.write("r", "18"), 1.05),
    (XML.write("\u200b", "18"), 1.1),
    (XML.write("\n\n\t", "18"), 1.0),
    ("\\boxed{18}", 0.25),
    ("\\boxed{18}" * 2, 0.25),
    ("\\boxed{18} and \\boxed{\\text{no}}", 0.0),
    ("\\boxed{\\boxed{18}}", 0.0),
    ("\\boxed{18", 0.0),
    ("#### 18 ####", 0.0),
    ("########## 18", 0.25),
    ("#### 18\n#### 18", 0.25),
    ("18" * 500_000, 0.0),
    (XML.write("9 * 2 = 18\n" * 50_000, "18"), 1.1),
    ("\u202e" + XML.write("r", "18") + "\u202c", 1.05),
]


def paid(text: str, gold: str) -> float:
    columns = {"answer": [gold], "question": ["?"]}
    return build_suite(SOUND_WEIGHTS, XML).score(["?"], [text], columns).totals[0]


@pytest.mark.parametrize(("gold", "answer", "right"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_is_paid_if_and_only_if_it_is_the_gold(gold: str, answer: str, right: bool) -> None:
    assert paid(XML.write("some work", answer), gold) == pytest.approx(1.1 if right else 0.0)


@pytest.mark.parametrize(("text", "reward"), COMPLETIONS, ids=range(len(COMPLETIONS)))
def test_a_completion_is_paid_what_it_is_worth(text: str, reward: float) -> None:
    assert paid(text, "18") == pytest.approx(reward)


QUICK = sorted(set(CATALOGUE) - {"step_verified_reference"})  # its lines go to a child process: see test_steps.py


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_reward_keeps_its_range_and_its_bound_for_wrong_answers(name: str) -> None:
    fmt = get_format(name)
    suite = build_suite(dict.fromkeys(QUICK, 1.0), fmt, max_new_tokens=64)
    texts = [(fmt.write("9 * 2 = 18", answer), gold) for gold, answer, _ in ANSWERS] + [
        (t, "18") for t, _ in COMPLETIONS
    ]
    for text, gold in texts:
        columns = {"answer": [gold], "question": ["9 times 2?"], "nums": [[9, 2]], "target": [18]}
        scores = suite.score(["?"], [text], columns, completion_ids=[[1, 2, 3] * 9])
        wrong = scores.parts["correct"] == (0.0,) and scores.parts["countdown"] == (0.0,)
        for reward, (value,) in scores.parts.items():
            pay = CATALOGUE[reward].bounds
            assert value is None or pay.low <= value <= pay.high, (reward, text[:80])
            if wrong and value is not None and reward in SOUND:
                assert value <= pay.wrong, (reward, text[:80])


LONG = {
    "digits": "9", "commas": "1,000", "words": "so ", "lines": "1 + 1 = 2\n", "signs": "1+", "brackets": "(",
    "tags": "<answer>",
    "both tags": "<reasoning></reasoning><answer>", "boxes": "\\boxed{", "closing": "}", "hashes": "####",
    "hash marks": "#### 1\n",
    "zero width": "\u200b", "emoji": "\U0001f600", "Chinese": "\u4f60", "Greek": "\u03b1", "controls": "\x00",
    "surrogates": "\ud800", "equals": "=", "LaTeX": "\\frac{1}{2} = ", "powers": "2^2=4\n", "says": "answer is ",
    "spaces": " ", "breaks": "\n", "right to left": "\u05d0\u202e", "solution": "<SOLUTION>1</SOLUTION>",
    "working": "<start_working_out>\n", "calls": "sqrt(", "roots": "\u221a1",
}  # fmt: skip


@pytest.mark.parametrize(("size", "limit_s"), [(10**5, 1.0), pytest.param(10**6, 3.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", LONG)
def test_long_texts_take_every_reward_a_moment(kind: str, size: int, limit_s: float) -> None:
    piece = LONG[kind]
    body = piece * (size // len(piece))
    slow = {}
    for text in (body, XML.write(body, "18"), XML.write("r", body)):
        for name in QUICK:
            suite = build_suite(
                {name: 1.0, "correct": 9.0} if name != "correct" else {"correct": 1.0}, XML, max_new_tokens=64
            )
            columns = {"answer": ["18"], "question": ["9 times 2?"], "nums": [[9, 2]], "target": [18]}
            start = time.process_time()
            suite.score(["?"], [text], columns, completion_ids=[[1] * 64])
            slow[name] = max(slow.get(name, 0.0), time.process_time() - start)
    assert max(slow.values()) < limit_s, sorted(slow.items(), key=lambda item: -item[1])[:4]


def test_the_reasons_of_long_texts_stay_short() -> None:
    suite = build_suite(dict.fromkeys(QUICK, 1.0), XML, max_new_tokens=64)
    for piece in ("9", "1 + 1 = 2\n", "\x1b[31m", "<answer>"):
        text = XML.write(piece * (10**5 // len(piece)), "1" * 1000)
        for part in explain(suite, Problem("9 times 2?", "18"), text, "?", [1] * 64).parts:
            assert part.why.isprintable() and len(part.why) < 1500, part.name


def test_no_mixture_of_these_leaves_its_range_or_speaks_in_control_characters() -> None:
    draw = random.Random(0)
    pieces = [
        *LONG.values(),
        *(answer for _, answer, _ in ANSWERS if len(answer) < 99),
        *(" = ", "of", "x", "(", "2", "!"),
    ]
    columns = [[9, 2], "9 2", [], None, [True], ["x"], {"a": 1}, float("nan"), b"9"]
    for name in sorted(FORMATS):
        fmt = get_format(name)
        suite = build_suite(dict.fromkeys(QUICK, 1.0), fmt, max_new_tokens=64)
        for _ in range(400):
            body = "".join(draw.choices(pieces, k=draw.randrange(12)))
            text = draw.choice([body, fmt.write(body, "18"), fmt.write("9*2 = 18", body), body + fmt.write("r", "19")])
            given = {"nums": draw.choice(columns), "target": draw.choice([18, "18", None, "x", float("inf"), True])}
            problem = Problem(
                draw.choice(["9 times 2?", body[:99]]), draw.choice(["18", "-5", "1/2", "50%"]), columns=given
            )
            for part in explain(suite, problem, text, "?", draw.choice([None, [], [1, 2, 3]])).parts:
                pay = CATALOGUE[part.name].bounds
                assert part.value is None or pay.low <= part.value <= pay.high, (part.name, text)
                assert part.why and part.why.isprintable(), (part.name, part.why)
