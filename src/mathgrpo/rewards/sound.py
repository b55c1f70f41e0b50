"""The sound rewards: form never makes a wrong answer worth more than a right one.

Each says what it pays, its range, and how a model could try to game it. "Right" means: the verdict on the format's one
final answer block is "correct". `format` and `integer` pay on right answers only, so with `correct` and these a wrong
answer earns exactly 0, whatever the weights; `format_always` is the exception, and `build_suite` limits its weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mathgrpo.answers import Graded, grade, grade_completion, parse_number
from mathgrpo.answers.flexible import boxed_answers, hash_answers
from mathgrpo.formats import Format, get_format
from mathgrpo.rewards.signature import Completions, completion_texts

OUTSIDE = 0.25
"""What `correct` pays for a right answer that is marked, but not in the format's answer block."""

_ANSWER_TAG = re.compile(r"</?(?:answer|SOLUTION)>")
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


class Row(NamedTuple):
    """A completion with its problem and its grades."""

    text: str
    gold: str
    question: str
    graded: Graded


def correct(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    r"""Return 1 for a right answer in the format's one answer block, 0.25 for one marked in another way, else 0.

    Marked in another way: no answer tag of any format, and exactly one \boxed{} or one "####", or nothing but the
    number. It is worth something so that being right beats being wrong, and little so that the format is learned.

    Range: 0 to 1.
    Gaming: guessing the gold. Several answers, lists, other scripts' digits and unevaluated expressions earn 0.
    """
    return [
        1.0 if row.graded.verdict == "correct" else OUTSIDE if _right_outside(row) else 0.0
        for row in _rows(completions, answer, **columns)
    ]


def format_when_right(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    """Return, for right answers only, 1 for exactly the asked layout and 0.5 for both blocks in order; else 0.

    Range: 0 to 1.
    Gaming: a token word in the reasoning block satisfies it; an empty one does not.
    """
    graded = [row.graded for row in _rows(completions, answer, **columns)]
    return [_form(each) if each.verdict == "correct" else 0.0 for each in graded]


def format_always(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    """Return what `format_when_right` does, on wrong answers too; for a model that never hits the format.

    The answer must be readable: a word in the answer block earns 0.

    Range: 0 to 1.
    Gaming: any number in perfect form earns it, so its weight must stay below 0.25 of the weight of `correct`.
    """
    graded = [row.graded for row in _rows(completions, answer, **columns)]
    return [_form(each) if each.verdict in ("correct", "wrong") else 0.0 for each in graded]


def integer(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float | None]:
    """Return 1 for a right answer written as plain ASCII digits with at most a minus sign, else 0.

    None (does not apply) where the gold is no integer.

    Range: 0 to 1.
    Gaming: none beyond guessing the gold; it teaches "18" rather than "$18.00".
    """
    rows = _rows(completions, answer, **columns)
    return [_plain_integer(row.graded) if _is_integer(row.gold) else None for row in rows]


def _rows(
    completions: Completions,
    answer: Sequence[str],
    question: Sequence[str] | None = None,
    response_format: Format | None = None,
    **columns: Any,
) -> list[Row]:
    fmt = response_format or get_format("xml")
    texts = completion_texts(completions)
    questions = [""] * len(texts) if question is None else question
    return [
        Row(text, gold, asked, grade_completion(text, gold, fmt, question=asked))
        for text, gold, asked in zip(texts, answer, questions, strict=True)
    ]


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
    return grade(marks[0] if marks else row.text, row.gold, question=row.question) == "correct"
