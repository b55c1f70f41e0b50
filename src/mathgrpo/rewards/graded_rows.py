"""Completions with their problems, graded: what most rewards look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mathgrpo.answers import Graded, grade_completion
from mathgrpo.formats import Format, get_format
from mathgrpo.rewards.signature import Completions, completion_texts


class Row(NamedTuple):
    """A completion with its problem and its grades."""

    text: str
    gold: str
    question: str
    graded: Graded
    fmt: Format

    @property
    def right(self) -> bool:
        """The format's one final answer is correct."""
        return self.graded.verdict == "correct"


def graded_rows(
    completions: Completions,
    answer: Sequence[str],
    question: Sequence[str] | None = None,
    response_format: Format | None = None,
    completion_grades: Sequence[Graded] | None = None,
    **columns: Any,
) -> list[Row]:
    """Return each completion with its grades; called with what a reward function receives. Without a format: xml.

    completion_grades: the completions', where they are known already; else they are graded here.
    """
    fmt = response_format or get_format("xml")
    texts = completion_texts(completions)
    questions = [""] * len(texts) if question is None else question
    grades = completion_grades
    if grades is None:
        grades = [
            grade_completion(text, gold, fmt, question=asked)
            for text, gold, asked in zip(texts, answer, questions, strict=True)
        ]
    rows = zip(texts, answer, questions, grades, strict=True)
    return [Row(text, gold, asked, graded, fmt) for text, gold, asked, graded in rows]
