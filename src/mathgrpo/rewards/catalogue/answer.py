"""Rewards for the answer: right, nearly right, right in plain digits."""

from __future__ import annotations

import re

from mathgrpo.answers import grade, parse_number
from mathgrpo.answers.flexible import hash_answers
from mathgrpo.rewards.catalogue.form import missing_words
from mathgrpo.rewards.reward import Pay, Row, reward
from mathgrpo.text import quoted

OUTSIDE = 0.25
"""What `correct` pays for a right answer that is marked, but not in the format's answer block."""

_ANSWER_TAG = re.compile(r"</?(?:answer|SOLUTION)>")
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


def _answer_words(row: Row, value: float | None) -> str:
    """Say what was read as the answer, and how it compares with the gold."""
    graded = row.graded
    if graded.verdict == "correct":
        return f"the answer {quoted(graded.answer or '')} is the gold {quoted(row.gold)}"
    if graded.verdict == "wrong":
        return f"the answer {quoted(graded.answer or '')} is not the gold {quoted(row.gold)}"
    if graded.verdict == "no_answer":
        outside = "; a right answer is marked in another way" if value else ""
        return f"no single answer in the {row.fmt.name} format ({missing_words(row)}){outside}"
    return f"the answer {quoted(graded.answer or '')} cannot be read ({graded.verdict})"


@reward(family="answer", pay=Pay(0, 1, right=1), why=_answer_words, pays_right=True)
def correct(row: Row) -> float:
    r"""Return 1 for a right answer in the format's one answer block, 0.25 for one marked in another way, else 0.

    Marked in another way: no answer tag of any format, and exactly one \boxed{} or one "####", or nothing but the
    number. It is worth something so that being right beats being wrong, and little so that the format is learned.

    Gaming: guessing the gold; several answers, lists, other scripts' digits and unevaluated expressions earn 0.
    Source: accuracy reward of DeepSeek-R1, arXiv 2501.12948.
    """
    return 1.0 if row.right else OUTSIDE if _right_outside(row) else 0.0


def _right_outside(row: Row) -> bool:
    """Return whether a text without any answer tag marks exactly one answer in another way, and it is right."""
    if row.graded.answer is not None or row.graded.flexible_verdict != "correct" or _ANSWER_TAG.search(row.text):
        return False
    marks = row.text.count("\\boxed") + len(hash_answers(row.text))
    if marks > 1:
        return False
    if marks or row.graded.found == row.text.strip():
        return True  # it is what was found, and so is graded already
    return parse_number(row.text) is not None and grade(row.text, row.gold, question=row.question) == "correct"


def _integer_words(row: Row, value: float | None) -> str:
    """Say whether a right answer is plain digits."""
    if value is None:
        return f"does not apply: the gold {quoted(row.gold)} is no integer"
    return _answer_words(row, value) + ("" if value or not row.right else ", but not in plain digits")


@reward(family="answer", pay=Pay(0, 1), why=_integer_words, pays_right=True)
def integer(row: Row) -> float | None:
    """Return 1 for a right answer in plain ASCII digits, else 0; does not apply to other golds.

    A minus sign may stand before them. It teaches "18" rather than "$18.00".

    Gaming: none beyond guessing the gold.
    """
    gold = parse_number(row.gold)
    if gold is None or gold.denominator != 1:
        return None
    return float(row.right and _INTEGER.fullmatch(row.graded.answer or "") is not None)


@reward(family="answer", pay=Pay(0, 1, wrong=0.5, right=1), why=_answer_words, pays_right=True)
def near_answer(row: Row) -> float:
    """Return 1 for a right answer, 1/2 within 10 % of the gold, 1/6 within 20 %, else 0.

    The notebook's 3 : 1.5 : 0.5, without the penalty that made a wrong answer worth less than none.

    Gaming: guessing the size of the answer; its weight is limited for that.
    Source: the graduated scores of reference system 2, read exactly.
    """
    if row.right:
        return 1.0
    gold, answer = parse_number(row.gold), parse_number(row.graded.answer or "")
    if row.graded.verdict != "wrong" or gold is None or answer is None or gold == 0:
        return 0.0
    distance = abs(answer - gold) / abs(gold)
    return 1 / 2 if 10 * distance <= 1 else 1 / 6 if 5 * distance <= 1 else 0.0
