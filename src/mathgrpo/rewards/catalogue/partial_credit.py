"""Rewards for a model that seldom earns the default ones: answers in digits or nearly right, the form in pieces."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mathgrpo.answers import parse_number
from mathgrpo.rewards.catalogue.answer_and_form import form
from mathgrpo.rewards.reward import Pay, Row, reward

_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


@reward(family="answer", pay=Pay(0, 1), pays_right=True)
def integer(row: Row) -> float | None:
    """Return 1 for a right answer in plain ASCII digits, else 0; does not apply to other golds.

    A minus sign may stand before them. It teaches "18" rather than "$18.00".

    Gaming: none beyond guessing the gold.
    """
    gold = parse_number(row.gold)
    if gold is None or gold.denominator != 1:
        return None
    return float(row.right and _INTEGER.fullmatch(row.graded.answer or "") is not None)


@reward(family="answer", pay=Pay(0, 1, wrong=0.5, right=1), pays_right=True)
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


@reward(family="form", pay=Pay(0, 1, wrong=1))
def format_always(row: Row) -> float:
    """Return what format pays, on every readable answer.

    For a model that never hits the format. A word in the answer block earns 0.

    Gaming: any number in perfect form earns it; its weight is limited for that.
    """
    return form(row) if row.graded.verdict in ("correct", "wrong") else 0.0


@reward(family="form", pay=Pay(0, 1, wrong=1))
def format_parts(row: Row) -> float:
    """Return the share of the format's tags that stand once each and in order, whatever the answer.

    For a model that hits the format in pieces only: there `format_always` never pays, and this rises mark by mark.

    Gaming: the tags alone earn it; its weight is limited for that.
    """
    marks = row.fmt.marks
    return 1.0 - len(missing_marks(row.whole, marks)) / len(marks)


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
