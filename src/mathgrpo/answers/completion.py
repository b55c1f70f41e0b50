"""A whole completion becomes everything the rewards and the evaluation want to know about it."""

from __future__ import annotations

from mathgrpo.answers.flexible import flexible_answer
from mathgrpo.answers.grade import grade
from mathgrpo.arithmetic import has_equation
from mathgrpo.formats import Format
from mathgrpo.types import Graded


def grade_completion(text: str, gold: str, fmt: Format, *, question: str = "") -> Graded:
    """Return what there is to know about a completion, from one parse and at most one grading. Never raises.

    Args:
        question: tells whether a percentage was asked for, see `grade`.
    """
    parsed = fmt.parse(text)
    found = parsed.answer if parsed.answer is not None else flexible_answer(text)
    flexible_verdict = grade(found, gold, question=question)
    return Graded(
        reasoning=parsed.reasoning,
        answer=parsed.answer,
        found=found,
        verdict="no_answer" if parsed.answer is None else flexible_verdict,
        flexible_verdict=flexible_verdict,
        format_strict=parsed.strict,
        format_soft=parsed.soft,
        worked=has_equation(text if parsed.reasoning is None else parsed.reasoning),
    )
