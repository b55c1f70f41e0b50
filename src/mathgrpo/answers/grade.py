"""A completion is read and its answer becomes a verdict.

Two plain integers are compared here; what else an answer and a gold may be, in `against_gold.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from mathgrpo.answers.against_gold import EQUAL, UNEQUAL, compared
from mathgrpo.answers.flexible import AMBIGUOUS, NOT_IN_FORMAT, Found, find_answer
from mathgrpo.answers.taken_back import is_taken_back, same_answer
from mathgrpo.formats import Format
from mathgrpo.types import Graded, Verdict

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_RIGHT_SIDE = re.compile(r"=[^=\n0-9]{0,12}[0-9]", re.ASCII)
_DIGIT = re.compile(r"[0-9]", re.ASCII)
_LEFT_CHARS = 40

NO_ANSWER = Verdict("no_answer", why="there is no answer")


def grade(answer: str | None, gold: str, *, question: str = "") -> Verdict:
    """Return the verdict on an answer.

    Per cent: "%" is a unit. "50%" answers the gold 50 when the question asks for a percentage, else it is 0.5;
    for the gold "50%" both "50%" and "50" are right. Other units: the gold's or, where it has none, the one asked for;
    a different one is right when it is exactly equal ("500 cents" for "5 dollars"). Words that are no unit (not in the
    table of `units.py`, nor in the question or the gold) make an answer wrong.

    Example:
        >>> grade("$1,200.", "1200"), grade("18 or 19", "18"), grade(" ", "18")
        ('correct', 'refused', 'no_answer')
        >>> grade("50%", "50", question="What percentage is left?"), grade("50%", "50", question="How many are left?")
        ('correct', 'wrong')
    """
    if answer is None or not answer.strip():
        return NO_ANSWER
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        if int(answer) == int(gold):
            return Verdict("correct", answer, "number", EQUAL)
        return Verdict("wrong", answer, "number", UNEQUAL)
    return compared(answer, gold, question)


def grade_completion(text: str, gold: str, fmt: Format, *, question: str = "", opened: str | None = None) -> Graded:
    """Return what there is to know about a completion, from one parse. Never raises.

    Several answers are one where they are equal in value; what differs is "ambiguous". For `question` see `grade`, for
    `opened` `Format.parse`.
    """
    same = partial(same_answer, right=lambda answer: grade(answer, gold, question=question) == "correct")
    parsed = fmt.parse(text, opened=opened, question=question, same=same)
    if parsed.answer is not None and not parsed.strict and is_taken_back(parsed.answer, parsed.tail, same):
        parsed = replace(parsed, answer=None, soft=False, ambiguous=True)
    if parsed.answer is not None:
        verdict = flexible = grade(parsed.answer, gold, question=question)
        found = Found(parsed.answer, "format")
    else:
        verdict = AMBIGUOUS if parsed.ambiguous else NOT_IN_FORMAT
        found = find_answer((opened or "") + text, same, question=question)
        flexible = AMBIGUOUS if found.ambiguous else grade(found.answer, gold, question=question)
    return Graded(
        reasoning=parsed.reasoning,
        answer=parsed.answer,
        found=found.answer,
        verdict=verdict,
        flexible_verdict=flexible,
        format_strict=parsed.strict,
        format_soft=parsed.soft,
        worked=has_equation(text if parsed.reasoning is None else parsed.reasoning),
        found_at=found.stop,
    )


def has_equation(text: str) -> bool:
    """Return whether an "=" has a number close by on both sides, on one line: a loose look, for any kind of working.

    Example:
        >>> has_equation("16 - 3 - 4 = 9 eggs"), has_equation("x = 9")
        (True, False)
    """
    for match in _RIGHT_SIDE.finditer(text):
        left = text[max(0, match.start() - _LEFT_CHARS) : match.start()].rpartition("\n")[2]
        if _DIGIT.search(left):
            return True
    return False
