"""The sound rewards: form never makes a wrong answer worth more than a right one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mathgrpo.answers import grade, parse_number
from mathgrpo.answers.flexible import hash_answers
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


def _form(row: Row) -> float:
    return 1.0 if row.graded.format_strict else 0.5 if row.graded.format_soft else 0.0


def _form_words(row: Row, value: float | None) -> str:
    """Say how a completion keeps to the layout."""
    if row.graded.format_strict:
        return "exactly the asked layout"
    if row.graded.format_soft:
        return "both blocks in order, with other text around or between them"
    return missing_words(row)


def _form_when_right_words(row: Row, value: float | None) -> str:
    """Say how a completion keeps to the layout, or that its answer is not right."""
    return _form_words(row, value) if row.right else f"pays right answers only; {_form_words(row, value)}"


@reward(name="format", family="form", pay=Pay(0, 1), why=_form_when_right_words, pays_right=True)
def format_when_right(row: Row) -> float:
    """Return on right answers only: 1 for exactly the asked layout, 0.5 for both blocks in order; else 0.

    Gaming: a token word in the reasoning block satisfies it; an empty one does not.
    Source: format reward of DeepSeek-R1, arXiv 2501.12948.
    """
    return _form(row) if row.right else 0.0


@reward(family="form", pay=Pay(0, 1, wrong=1), why=_form_words)
def format_always(row: Row) -> float:
    """Return what format pays, on every readable answer.

    For a model that never hits the format. A word in the answer block earns 0.

    Gaming: any number in perfect form earns it; its weight is limited for that.
    """
    return _form(row) if row.graded.verdict in ("correct", "wrong") else 0.0


def _parts_words(row: Row, value: float | None) -> str:
    """Say which marks stand where they should."""
    marks = row.fmt.layout.marks
    missing = missing_marks(row.text, marks)
    return f"{len(marks) - len(missing)} of {len(marks)} marks once and in order; {missing_words(row)}"


@reward(family="form", pay=Pay(0, 1, wrong=1), why=_parts_words)
def format_parts(row: Row) -> float:
    """Return the share of the format's tags that stand once each and in order, whatever the answer.

    For a model that hits the format in pieces only: there `format_always` never pays, and this rises mark by mark.

    Gaming: the tags alone earn it; its weight is limited for that.
    """
    marks = row.fmt.layout.marks
    return 1.0 - len(missing_marks(row.text, marks)) / len(marks)


def missing_marks(text: str, marks: Sequence[str]) -> list[str]:
    """Return the marks that do not stand in a text exactly once, or stand before an earlier one.

    Example:
        >>> missing_marks("<b>", ["<a>", "<b>"]), missing_marks("<b> <a>", ["<a>", "<b>"])
        (['<a>'], ['<b>'])
    """
    missing, reached = [], -1
    for mark in marks:
        place = text.find(mark) if text.count(mark) == 1 else -1
        if place <= reached:
            missing.append(mark)
        else:
            reached = place
    return missing


def missing_words(row: Row) -> str:
    """Return in words which of the format's marks do not stand where they should."""
    missing = missing_marks(row.text, row.fmt.layout.marks)
    if missing:
        return ", ".join(f"{mark} {_times(row.text.count(mark))}" for mark in missing)
    return "every mark is there" if row.graded.format_soft else "every mark is there, but a block is empty"


def _times(count: int) -> str:
    return {0: "is missing", 1: "stands before an earlier mark"}.get(count, f"stands {count} times")
