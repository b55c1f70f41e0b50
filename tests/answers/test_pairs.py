"""Pairs of an answer and a gold by kind, every kind of gold against itself, and golds changed a little."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mathgrpo.answers import equivalent, gold_problem, grade
from mathgrpo.errors import UserError

FOLDER = Path(__file__).with_name("pairs")
PAIRS = [json.loads(line) for line in (FOLDER / "kinds.jsonl").read_text(encoding="utf-8").splitlines()]
GOLDS = (FOLDER / "golds.txt").read_text(encoding="utf-8").splitlines()
FIELD = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "field"


@pytest.mark.parametrize("kind", list(dict.fromkeys(pair["kind"] for pair in PAIRS)))
def test_an_answer_is_right_if_and_only_if_a_mathematician_says_so(kind: str) -> None:
    for pair in (pair for pair in PAIRS if pair["kind"] == kind):
        assert gold_problem(pair["gold"]) is None, pair
        verdict = grade(pair["answer"], pair["gold"], question=pair.get("question", ""))
        assert (verdict == "correct") is (pair["want"] == "correct"), (pair, verdict, verdict.why)


@pytest.mark.shared
def test_the_pairs_from_the_field_get_the_wanted_verdict() -> None:
    for path in sorted(FIELD.glob("pairs_*.jsonl")):
        for pair in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            assert gold_problem(pair["gold"]) is None and grade(pair["answer"], pair["gold"]) == pair["want"], pair


DRESSES = ("{}", "${}$", "**{}**", "\\boxed{{{}}}", "{}.", "\\({}\\)", "The answer is ${}$.")


def test_every_kind_of_gold_is_accepted_and_equal_to_itself_in_any_dress() -> None:
    for gold in GOLDS:
        assert gold_problem(gold) is None, (gold, gold_problem(gold))
        for dress in DRESSES:
            stops = gold.endswith(".") and dress.endswith("}.")
            assert stops or grade(dress.format(gold), gold) == "correct", (
                dress,
                gold,
                grade(dress.format(gold), gold).why,
            )


CHANGES = (
    ("\\sqrt", ""), ("\\pi", ""), (" + ", " - "), ("cm}^2", "cm}^3"), ("feet", "inches"), ("hours", "days"),
    ("<", ">"), ("\\ge", "\\le"), ("PQ", "QP"), ("_6", "_7"), ("PM", "AM"), ("p - q", "q - p"), ("(C)", "(D)"),
    ("\\log_2", "\\log_3"), ("\\cup", "\\cap"), ("\\arcsin", "\\arccos"), ("\\tan", "\\sin"), ("odd", "even"),
    ("\\%", ""), ("a.m.", "p.m."),
)  # fmt: skip


def changed(gold: str) -> Iterator[str]:
    """Yield a gold with one thing of it changed, each another value than it."""
    for match in list(re.finditer("[0-9]", gold))[:3]:
        yield gold[: match.start()] + str((int(match[0]) + 3) % 10) + gold[match.end() :]
    worded = re.fullmatch(r"[A-Za-z ]+|\\text\{[^{}]*\}|\\emptyset|\\mathbb\{R\}", gold)
    if not (worded or "0" in re.findall("[0-9]+", gold)[:1] or "pm" in gold or gold.startswith("\\begin")):
        yield gold[1:] if gold.startswith("-") else f"-{gold}"
    if not (worded or ":" in gold or "=" in gold):
        yield f"{gold}+1"
    fraction = re.search(r"\\d?frac\{([^{}]+)\}\{([^{}]+)\}", gold)
    if fraction:
        yield gold.replace(fraction[0], f"\\frac{{{fraction[2]}}}{{{fraction[1]}}}")
    for one, other in ("()", "[]"), ("[]", "()"):
        if gold.startswith(one[0]) and gold.endswith((one[1], other[1])) and "," in gold:
            yield other[0] + gold[1:]
            yield gold[:-1] + (other[1] if gold.endswith(one[1]) else one[1])
    for old, new in CHANGES:
        if old in gold and not (old == "\\%" and gold.endswith("%")):
            yield gold.replace(old, new)


def test_a_gold_changed_a_little_is_never_paid() -> None:
    tried = [(gold, text) for gold in GOLDS for text in changed(gold) if text != gold]
    assert len(tried) > 350
    paid = [(text, gold) for gold, text in tried if grade(text, gold) == "correct"]
    assert paid == []


@pytest.mark.parametrize(
    "piece", ["1,", "(", "{", "[(", "\\frac", "\\text{", "x = ", "a and ", "\\pm 1, ", "1:", "√", "{\\over"]
)
def test_reading_an_answer_is_quick_however_it_nests(piece: str) -> None:
    start = time.perf_counter()
    for size in (500, 100_000):
        grade(piece * (size // len(piece)), "(1,2)")
    assert time.perf_counter() - start < 1.0


def test_values_are_equivalent_in_both_directions_and_within_a_tolerance_by_name() -> None:
    for a, b in (
        ("\\frac{1}{2}", "0.5"),
        ("18", "18 eggs"),
        ("9*2", "18"),
        ("$5", "500 cents"),
        ("x=2 or x=3", "3, 2"),
    ):
        assert equivalent(a, b) and equivalent(b, a), (a, b)
    for a, b in (("(1,2)", "[1,2]"), ("5 m", "5 cm"), ("18", ""), ("18 seems wrong", "18"), ("AB", "BA")):
        assert not equivalent(a, b) and not equivalent(b, a), (a, b)
    for text, rounded, near in (
        ("1.41", True, False),
        ("1.414", True, True),
        ("1.4", False, False),
        ("1.415", False, True),
    ):
        assert not equivalent(text, "\\sqrt{2}")
        assert equivalent(text, "\\sqrt{2}", tolerance="rounded") is rounded
        assert equivalent("\\sqrt{2}", text, tolerance="relative:1e-3") is near
    assert equivalent("(3.142, 2)", "(\\pi, 2)", tolerance="rounded") and equivalent(
        "0.333", "1/3", tolerance="rounded"
    )
    for name in ("near", "relative", "relative:0", "relative:1", "relative:x", "relative:1/0"):
        with pytest.raises(UserError, match=r'tolerance="relative|tolerance="near": use'):
            equivalent("1", "1", tolerance=name)


@pytest.mark.parametrize(
    "gold", ["see the appendix", "We know that x is 2", "Proof.", "x is 3", "5 if n is odd, else 6"]
)
def test_a_sentence_is_no_gold(gold: str) -> None:
    assert "is a sentence" in (gold_problem(gold) or "") and grade("4", gold) == "error"
    assert gold_problem("not enough information") is gold_problem("\\text{it is odd}") is None
