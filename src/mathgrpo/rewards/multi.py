"""The four rewards of the multi-reward GRPO notebook (working-out format, GSM8K): its exact scores, faults included.

They let a run be compared with that notebook; `sound.py` has the rewards to train with. Known faults, all kept: a wrong
answer in perfect form earns 4.5 of 9.5 and one within 10 % earns 6.5; the first number of a list of guesses counts and
loses its sign; "1,200" is neither read nor equal to "1200"; text behind the answer passes as exact form.
The patterns of the original are matched here without backtracking: the same outcome, in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mathgrpo.rewards.signature import Completions, completion_texts

_START, _END, _OPEN, _CLOSE = "<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>"
_TAGS = (_START, _END, _OPEN, _CLOSE)
# "</SOLUTION>" with only space up to the end of a line: the pattern's "$" matches at every one.
_CLOSE_AT_LINE_END = re.compile(rf"{_CLOSE}\s*?(?:\n|\Z)")
_NUMBER = re.compile(r"[\d.]+")


def multi_format_exactly(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 3.0 where a line begins with a working-out block and a solution block ends one after it, else 0.0."""
    return [0.0 if solution_text(text) is None else 3.0 for text in completion_texts(completions)]


def multi_format_approximately(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return the sum over the four tags of 0.5 where it occurs exactly once, else -0.5: -2.0 to 2.0."""
    texts = completion_texts(completions)
    return [sum(0.5 if text.count(tag) == 1 else -0.5 for tag in _TAGS) for text in texts]


def multi_answer_correctness(
    prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any
) -> list[float]:
    """Return 3.0 for the gold's text, 1.5 within 10 %, 0.5 within 20 %, -0.5 for any other, 0.0 without exact form."""
    texts = completion_texts(completions)
    return [_answer_score(solution_text(text), gold) for text, gold in zip(texts, answer, strict=True)]


def multi_numbers_extraction(
    prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any
) -> list[float]:
    """Return 1.5 where the first run of digits and points after the first <SOLUTION> is the gold, else 0.0."""
    texts = completion_texts(completions)
    return [_number_score(text, gold) for text, gold in zip(texts, answer, strict=True)]


def solution_text(text: str) -> str | None:
    """Return what the notebook's format pattern captures as the answer, None where it does not match.

    The earliest end of working and the earliest solution after it are the most generous choices, so nothing is retried.
    """
    start = _line_led_start(text)
    end = text.find(_END, start + len(_START) + 1) if start >= 0 else -1
    opening = text.find(_OPEN, end + len(_END)) if end >= 0 else -1
    if opening < 0:
        return None
    begin = opening + len(_OPEN)
    closing = _CLOSE_AT_LINE_END.search(text, begin + 1)
    return text[begin : closing.start()] if closing else None


def _line_led_start(text: str) -> int:
    """Return where the first working-out tag stands that has only space before it in its line, -1 for none."""
    place = text.find(_START)
    while place >= 0:
        line_start = text.rfind("\n", 0, place) + 1
        if not text[line_start:place].strip():
            return place
        # Another one in the same line has this one before it.
        line_end = text.find("\n", place)
        place = text.find(_START, line_end) if line_end >= 0 else -1
    return -1


def _answer_score(guess: str | None, gold: str) -> float:
    if guess is None:
        return 0.0
    if guess.strip() == gold.strip():
        return 3.0
    try:
        ratio = float(guess) / float(gold)
    except (ValueError, ZeroDivisionError):
        return -0.5
    return 1.5 if 0.9 <= ratio <= 1.1 else 0.5 if 0.8 <= ratio <= 1.2 else -0.5


def _number_score(text: str, gold: str) -> float:
    opening = text.find(_OPEN)
    number = _NUMBER.search(text, opening + len(_OPEN)) if opening >= 0 else None
    if number is None:
        return 0.0
    try:
        return 1.5 if float(number[0].strip()) == float(gold.strip()) else 0.0
    except ValueError:
        return 0.0
