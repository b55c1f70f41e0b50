"""Rewards for the form: how a completion keeps to the asked layout."""

from __future__ import annotations

from collections.abc import Sequence

from mathgrpo.rewards.reward import Pay, Row, reward


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
