"""A whole completion becomes everything the rewards and the evaluation want to know about it."""

from __future__ import annotations

import re

from mathgrpo.answers.flexible import flexible_answer
from mathgrpo.answers.grade import grade
from mathgrpo.formats import Format
from mathgrpo.types import Graded

_RIGHT_SIDE = re.compile(r"=[^=\n0-9]{0,12}[0-9]", re.ASCII)
_DIGIT = re.compile(r"[0-9]", re.ASCII)
_LEFT_CHARS = 40


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
        worked=has_arithmetic_step(text if parsed.reasoning is None else parsed.reasoning),
    )


def has_arithmetic_step(reasoning: str) -> bool:
    """Return whether an "=" has a number close by on both sides, on one line.

    Example:
        >>> has_arithmetic_step("16 - 3 - 4 = 9 eggs"), has_arithmetic_step("x = 9")
        (True, False)
    """
    for match in _RIGHT_SIDE.finditer(reasoning):
        left = reasoning[max(0, match.start() - _LEFT_CHARS) : match.start()].rpartition("\n")[2]
        if _DIGIT.search(left):
            return True
    return False
