"""A whole completion becomes everything the rewards and the evaluation want to know about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mathgrpo.answers.flexible import flexible_answer
from mathgrpo.answers.grade import grade
from mathgrpo.answers.verdict import Verdict
from mathgrpo.formats import Format

_RIGHT_SIDE = re.compile(r"=[^=\n0-9]{0,12}[0-9]", re.ASCII)
_DIGIT = re.compile(r"[0-9]", re.ASCII)
_LEFT_CHARS = 40


@dataclass(frozen=True, slots=True)
class Graded:
    """A completion, graded.

    Attributes:
        answer: the format's one final answer, None without one or with several.
        verdict: on that answer: "correct" here is strict accuracy.
        flexible_verdict: on the answer wherever it stands (`flexible_answer`).
        format_strict, format_soft: the format's two checks.
        worked: the reasoning has at least one arithmetic step, an "=" with a number on both sides.
    """

    answer: str | None
    verdict: Verdict
    flexible_verdict: Verdict
    format_strict: bool
    format_soft: bool
    worked: bool


def grade_completion(text: str, gold: str, fmt: Format, *, question: str = "") -> Graded:
    """Return a completion's answer, verdicts and form. Never raises, whatever the text.

    Args:
        question: tells whether a percentage was asked for, see `grade`.
    """
    parsed = fmt.parse(text)
    verdict = grade(parsed.answer, gold, question=question)
    anywhere = parsed.answer if parsed.answer is not None else flexible_answer(text)
    return Graded(
        answer=parsed.answer,
        verdict=verdict,
        flexible_verdict=verdict if anywhere == parsed.answer else grade(anywhere, gold, question=question),
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
