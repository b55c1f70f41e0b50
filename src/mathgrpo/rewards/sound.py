"""The sound rewards: form never makes a wrong answer worth more than a right one.

Each says what it pays, its range, and how a model could try to game it. "Right" means: the verdict on the format's one
final answer block is "correct". `format` and `integer` pay on right answers only, so with `correct` and these a wrong
answer earns exactly 0, whatever the weights; `format_always`, `format_parts` and `near_answer` are the exceptions, and
`build_suite` limits their weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mathgrpo.answers import Graded, grade, parse_number
from mathgrpo.answers.flexible import boxed_answers, hash_answers
from mathgrpo.formats import Format, get_format
from mathgrpo.rewards.graded_rows import Row, graded_rows
from mathgrpo.rewards.signature import Completions, completion_texts

OUTSIDE = 0.25
"""What `correct` pays for a right answer that is marked, but not in the format's answer block."""

_ANSWER_TAG = re.compile(r"</?(?:answer|SOLUTION)>")
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


def correct(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    r"""Return 1 for a right answer in the format's one answer block, 0.25 for one marked in another way, else 0.

    Marked in another way: no answer tag of any format, and exactly one \boxed{} or one "####", or nothing but the
    number. It is worth something so that being right beats being wrong, and little so that the format is learned.

    Range: 0 to 1.
    Gaming: guessing the gold. Several answers, lists, other scripts' digits and unevaluated expressions earn 0.
    """
    return [
        1.0 if row.right else OUTSIDE if _right_outside(row) else 0.0
        for row in graded_rows(completions, answer, **columns)
    ]


def format_when_right(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    """Return, for right answers only, 1 for exactly the asked layout and 0.5 for both blocks in order; else 0.

    Range: 0 to 1.
    Gaming: a token word in the reasoning block satisfies it; an empty one does not.
    """
    graded = [row.graded for row in graded_rows(completions, answer, **columns)]
    return [_form(each) if each.verdict == "correct" else 0.0 for each in graded]


def format_always(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    """Return what `format_when_right` does, on wrong answers too; for a model that never hits the format.

    The answer must be readable: a word in the answer block earns 0.

    Range: 0 to 1.
    Gaming: any number in perfect form earns it, so its weight must stay below 0.25 of the weight of `correct`.
    """
    graded = [row.graded for row in graded_rows(completions, answer, **columns)]
    return [_form(each) if each.verdict in ("correct", "wrong") else 0.0 for each in graded]


def integer(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float | None]:
    """Return 1 for a right answer written as plain ASCII digits with at most a minus sign, else 0.

    None (does not apply) where the gold is no integer.

    Range: 0 to 1.
    Gaming: none beyond guessing the gold; it teaches "18" rather than "$18.00".
    """
    rows = graded_rows(completions, answer, **columns)
    return [_plain_integer(row.graded) if _is_integer(row.gold) else None for row in rows]


def format_parts(
    prompts: Any, completions: Completions, response_format: Format | None = None, **columns: Any
) -> list[float]:
    """Return the share of the format's marks (its tags) that stand once each and in order, whatever the answer.

    For a model that hits the format in pieces only: there `format_always` never pays, and this rises mark by mark.

    Range: 0 to 1.
    Gaming: the tags alone earn it, so its weight must stay below 0.25 of the weight of `correct`.
    """
    marks = (response_format or get_format("xml")).layout.marks
    return [1.0 - len(missing_marks(text, marks)) / len(marks) for text in completion_texts(completions)]


def near_answer(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    """Return 1 for a right answer, 1/2 for a number within 10 % of the gold, 1/6 within 20 %, else 0.

    The graduated answer reward of the multi-reward notebook (3 : 1.5 : 0.5), on numbers that are read exactly, and
    without the penalty that made a wrong answer worth less than none.

    Range: 0 to 1; at most 1/2 for a wrong answer.
    Gaming: guessing the size of the answer, so half its weight must stay below 0.25 of the weight of `correct`.
    """
    rows = graded_rows(completions, answer, **columns)
    return [1.0 if row.right else _nearness(row) for row in rows]


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


def _nearness(row: Row) -> float:
    gold, answer = parse_number(row.gold), parse_number(row.graded.answer or "")
    if row.graded.verdict != "wrong" or gold is None or answer is None or gold == 0:
        return 0.0
    distance = abs(answer - gold) / abs(gold)
    return 1 / 2 if 10 * distance <= 1 else 1 / 6 if 5 * distance <= 1 else 0.0


def _form(graded: Graded) -> float:
    return 1.0 if graded.format_strict else 0.5 if graded.format_soft else 0.0


def _plain_integer(graded: Graded) -> float:
    return 1.0 if graded.verdict == "correct" and _INTEGER.fullmatch(graded.answer or "") else 0.0


def _is_integer(gold: str) -> bool:
    value = parse_number(gold)
    return value is not None and value.denominator == 1


def _right_outside(row: Row) -> bool:
    """Return whether a text without any answer tag marks exactly one answer in another way, and it is right."""
    if row.graded.answer is not None or row.graded.flexible_verdict != "correct" or _ANSWER_TAG.search(row.text):
        return False
    marks = boxed_answers(row.text) + hash_answers(row.text)
    if len(marks) > 1:
        return False
    if marks or row.graded.found == row.text.strip():
        return True  # it is what was found, and so is graded already
    return parse_number(row.text) is not None and grade(row.text, row.gold, question=row.question) == "correct"
