"""The default rewards: being right, and keeping to the format when right."""

from __future__ import annotations

import re

from mathgrpo.answers import grade, parse_number
from mathgrpo.rewards.reward import Pay, Row, reward

OUTSIDE = 0.25
"""What `correct` pays for a right answer that is marked, but not in the format's answer block."""

_ANSWER_TAG = re.compile(r"</?(?:answer|SOLUTION)>")


@reward(family="answer", pay=Pay(0, 1, right=1), pays_right=True)
def correct(row: Row) -> float:
    r"""Return 1 for a right answer in the format's one answer block, 0.25 for one marked in another way, else 0.

    Marked in another way: no answer tag of any format, and one \boxed{} or one "####" (or equal ones), or nothing but
    the number. It is worth something so that being right beats being wrong, and little so that the format is learned.

    Gaming: guessing the gold; several answers, lists, other scripts' digits and unevaluated expressions earn 0.
    Source: accuracy reward of DeepSeek-R1, arXiv 2501.12948.
    """
    return 1.0 if row.right else OUTSIDE if _right_outside(row) else 0.0


def _right_outside(row: Row) -> bool:
    """Return whether a text without any answer tag marks exactly one answer in another way, and it is right."""
    if row.graded.answer is not None or row.graded.flexible_verdict != "correct" or _ANSWER_TAG.search(row.text):
        return False
    if row.graded.found_at in ("box", "hash") or row.graded.found == row.text.strip():
        return True  # it is what was found, and so is graded already
    if any(mark in row.text for mark in ("\\boxed", "####")):
        return False
    return parse_number(row.text) is not None and grade(row.text, row.gold, question=row.question) == "correct"


@reward(name="format", family="form", pay=Pay(0, 1), pays_right=True)
def format_when_right(row: Row) -> float:
    """Return on right answers only: 1 for exactly the asked layout, 0.5 for both blocks in order; else 0.

    Gaming: a token word in the reasoning block satisfies it; an empty one does not.
    Source: format reward of DeepSeek-R1, arXiv 2501.12948.
    """
    return form(row) if row.right else 0.0


def form(row: Row) -> float:
    """Return how far a completion keeps to the layout: 1, 0.5 or 0."""
    return 1.0 if row.graded.format_strict else 0.5 if row.graded.format_soft else 0.0
