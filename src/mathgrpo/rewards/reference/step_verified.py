"""The reward of the step-verified reasoning notebook, faults included; `steps/verified.py` is the bounded one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from mathgrpo.answers.latex import arithmetic_line_verdict
from mathgrpo.rewards.reward import Pay, Row, reward

_ANSWER_DIGITS = re.compile(r"<answer>(\d+)</answer>")
_GOLD_DIGITS = re.compile(r"\s*([-+]?\d+)")
MAX_TIMEOUTS = 2
"""Lines of one completion that may run into the grader's wall limit before the rest earns nothing."""
MAX_TRIED_LINES = 1000
"""Lines of one completion that are put to math-verify, at a millisecond each; the rest earns nothing."""


@reward(family="reference 3", pay=Pay(0, math.inf, wrong=math.inf), pays_right=True)
def step_verified_reference(row: Row) -> float | None:
    """Return 0.4 for the answer plus 0.2 for each line between <think> tags that math-verify finds true.

    A line holds when both sides of its first "=" are equal (in the killable child process here). The answer must be all
    digits; of the gold, as in the notebook, only the whole number it begins with is compared ("1,200" is 1). Does not
    apply where the gold begins with no number: the notebook drops such problems.

    Gaming: any number of true and useless lines.
    Source: reference system 3, reward_fn.
    """
    number = _GOLD_DIGITS.match(row.gold)
    if number is None:
        return None
    # Added up in the notebook's order, so that even the rounding is the same.
    score = 0.0
    for holds in lines_that_hold(think_lines(row.text)):
        score += 0.2 if holds else 0.0
    answer = _ANSWER_DIGITS.search(row.text)
    same = answer is not None and len(answer[1]) < 600 and int(answer[1]) == int(number[1])
    return score + 0.4 if same else score


def think_lines(text: str) -> list[str]:
    """Return the lines of the first think block, none without one."""
    _, opening, rest = text.partition("<think>")
    inner, closing, _ = rest.partition("</think>")
    return inner.splitlines() if opening and closing else []


def lines_that_hold(lines: Iterable[str]) -> list[bool]:
    """Return for each line whether math-verify finds both sides of its first "=" equal."""
    held, timeouts, tried = [], 0, 0
    for line in lines:
        may = "=" in line and timeouts < MAX_TIMEOUTS and tried < MAX_TRIED_LINES
        verdict = arithmetic_line_verdict(line) if may else "wrong"
        tried += may
        timeouts += verdict == "timeout"
        held.append(verdict == "correct")
    return held
