"""Answers: reading the final answer of a completion and grading it against the gold."""

from __future__ import annotations

from mathgrpo.answers.against_gold import gold_problem
from mathgrpo.answers.equivalent import equivalent
from mathgrpo.answers.flexible import flexible_answer
from mathgrpo.answers.grade import grade, grade_completion
from mathgrpo.answers.numbers import parse_number
from mathgrpo.types import Graded, Verdict

__all__ = [
    "Graded",
    "Verdict",
    "equivalent",
    "flexible_answer",
    "gold_problem",
    "grade",
    "grade_completion",
    "parse_number",
]
