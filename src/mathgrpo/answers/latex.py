"""Grading of LaTeX expressions by math-verify, always in processes that can be killed (`killable.py`).

Only what is no plain number comes here. Most hostile answers do not get as far as a process: `refusal` turns them away
by what they would grow to.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mathgrpo.answers.killable import KillableGrader, Reply
from mathgrpo.answers.latex_walk import too_large
from mathgrpo.types import Verdict

MAX_LATEX_CHARS = 500
MAX_LINE_CHARS = 1000

_CODE = re.compile(r"__|[\"`@#]|[^\x20-\x7e\n\t¡-ɏͰ-Ͽ‐-⃏℀-⏿■-◿⟀-⧿⨀-⫿]")
_COMPUTES = re.compile(r"[-+*/^×÷]")

grader = KillableGrader()

_WHY = {
    "correct": "the same expression as the gold",
    "wrong": "another expression than the gold",
    "refused": "this is not read as an expression",
    "bad_gold": "the gold is not read as an expression",
}


@lru_cache(maxsize=8192)
def refusal(text: str) -> str | None:
    """Return why an expression is not even tried, None if it may be: a final answer is short and computes little.

    Example:
        >>> refusal("10^{1000000000}")
        'an exponent that makes a number of more than 6000 digits'
    """
    if len(text) > MAX_LATEX_CHARS:
        return f"more than {MAX_LATEX_CHARS} characters"
    return "characters that no LaTeX answer has" if _CODE.search(text) else too_large(text)


def latex_verdict(answer: str, gold: str, **tolerance: str) -> Verdict:
    """Return the verdict on an answer to a LaTeX gold; "error" also when the gold itself cannot be read.

    Args:
        tolerance: `relative` and `within`, fractions as text, for values that need not be exactly equal.

    A verdict that the two texts decide is kept: the completions of a group repeat each other's answers.
    """
    refused, gold_refused = refusal(answer), refusal(gold)
    if refused is not None:
        return Verdict("refused", answer, "latex", f"not tried: {refused}")
    if gold_refused is not None:
        return Verdict("error", answer, "latex", f"the gold has {gold_refused}")
    reply = grader.ask(gold=gold, answer=answer, **tolerance)
    outcome = "error" if reply.verdict == "bad_gold" else reply.verdict
    return Verdict(outcome, answer, "latex", _why(reply))  # type: ignore[arg-type]


def latex_gold_problem(gold: str) -> str | None:
    """Return in words why a gold is no readable LaTeX expression, None if it is one."""
    refused = refusal(gold)
    if refused is not None:
        return f"has {refused}"
    reply = grader.ask(gold=gold, answer=gold)
    return None if reply.verdict == "correct" else f"cannot be compared, not even with itself: {_why(reply)}"


def arithmetic_line_verdict(line: str) -> str:
    """Return "correct" when math-verify finds both sides of a line's first "=" equal, as plain expressions in prose.

    This is the step check of the step-verified reasoning notebook; what is long or would grow large is "refused".
    """
    if len(line) > MAX_LINE_CHARS or (_COMPUTES.search(line) and too_large(line.replace("!", ".")) is not None):
        return "refused"
    return grader.ask(line=line).verdict


def _why(reply: Reply) -> str:
    return reply.why or _WHY.get(reply.verdict, reply.verdict)
