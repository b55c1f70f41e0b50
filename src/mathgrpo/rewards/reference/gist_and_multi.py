"""The rewards of the GRPO demo gist and of the multi-reward notebook, faults included."""

from __future__ import annotations

import math
import re

from mathgrpo.rewards.reward import Pay, Row, reward

_STRICT = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
# The notebook's pattern, with the blocks in one line (the earliest middle is the most generous one and never retried),
# or with the line break that only the space between the blocks may have.
_SOFT = re.compile(
    r"<reasoning>(?:(?>.*?</reasoning>[^\S\n]*<answer>).*?</answer>"
    r"|.*?</reasoning>[^\S\n]*\n\s*<answer>.*?</answer>)"
)
PER_CHARACTER = 0.001
"""What `gist_xml_count` takes for a character behind the answer."""


@reward(family="reference 4", pay=Pay(0, 0.5, wrong=0.5))
def gist_strict_format(row: Row) -> float:
    """Return 0.5 where each tag and each block has exactly one line and a line break ends the text, else 0.0.

    Gaming: empty lines and wrong answers are paid, reasoning of two lines is not.
    Source: the GRPO demo gist that reference system 4 extends, strict_format_reward_func.
    """
    # No part of this pattern can cross a line, so a failing match costs one pass at most.
    return 0.5 if _STRICT.match(row.text) else 0.0


@reward(family="reference 4", pay=Pay(0, 0.5, wrong=0.5))
def gist_soft_format(row: Row) -> float:
    """Return 0.5 for a reasoning block at the start, then an answer block, each without a line break, else 0.0.

    Gaming: empty blocks, and any text behind them.
    Source: the GRPO demo gist that reference system 4 extends, soft_format_reward_func.
    """
    return 0.5 if _SOFT.match(row.text) else 0.0


@reward(family="reference 4", pay=Pay(-math.inf, 0.5, wrong=0.5))
def gist_xml_count(row: Row) -> float:
    """Return 0.125 for each tag that stands once with its line breaks, less 0.001 for each character behind the answer.

    Gaming: the tags alone; without the last tag every character costs.
    Source: the GRPO demo gist that reference system 4 extends, xmlcount_reward_func.
    """
    text = row.text
    count = 0.125 * (text.count("<reasoning>\n") == 1) + 0.125 * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        count += 0.125
        count -= len(text.rpartition("\n</answer>\n")[2]) * PER_CHARACTER
    if text.count("\n</answer>") == 1:
        count += 0.125
        count -= (len(text.rpartition("\n</answer>")[2]) - 1) * PER_CHARACTER
    return count


_START, _END, _OPEN, _CLOSE = "<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>"
_TAGS = (_START, _END, _OPEN, _CLOSE)
# The notebook's pattern in two parts. The first start that leads its line, the earliest end of working and the earliest
# solution after it are the most generous choices, so that nothing is retried (?>...) and the time is linear.
_LINE_LED_START = re.compile(rf"^[^\S\n]*{_START}", re.MULTILINE)
_SOLUTION = re.compile(rf"(?>.+?{_END})(?>.*?{_OPEN})(.+?){_CLOSE}\s*?$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[\d.]+")


@reward(family="reference 2", pay=Pay(0, 3, wrong=3))
def multi_format_exactly(row: Row) -> float:
    """Return 3.0 for a working-out block that begins a line and then a solution block that ends one, else 0.0.

    Gaming: a wrong answer in form; text behind the solution's line.
    Source: reference system 2, match_format_exactly.
    """
    return 0.0 if solution_text(row.text) is None else 3.0


@reward(family="reference 2", pay=Pay(-2, 2, wrong=2))
def multi_format_approximately(row: Row) -> float:
    """Return for each of <start_working_out>, <end_working_out>, <SOLUTION> and </SOLUTION> 0.5 if it occurs exactly
    once, else -0.5.

    Gaming: the tags alone.
    Source: reference system 2, match_format_approximately.
    """
    return sum(0.5 if row.text.count(tag) == 1 else -0.5 for tag in _TAGS)


@reward(family="reference 2", pay=Pay(-0.5, 3, wrong=1.5), pays_right=True)
def multi_answer_correctness(row: Row) -> float:
    """Return 3.0 for the gold's text, 1.5 within 10 %, 0.5 within 20 %, -0.5 for any other, 0.0 without exact form.

    Gaming: guessing the size; no form is better than a wrong answer.
    Source: reference system 2, check_answer_correctness.
    """
    guess = solution_text(row.text)
    if guess is None:
        return 0.0
    if guess.strip() == row.gold.strip():
        return 3.0
    try:
        ratio = float(guess) / float(row.gold)
    except (ValueError, ZeroDivisionError):
        return -0.5
    return 1.5 if 0.9 <= ratio <= 1.1 else 0.5 if 0.8 <= ratio <= 1.2 else -0.5


@reward(family="reference 2", pay=Pay(0, 1.5, wrong=1.5), pays_right=True)
def multi_numbers_extraction(row: Row) -> float:
    """Return 1.5 where the first run of digits and points behind the first <SOLUTION> is the gold, else 0.0.

    Gaming: a list that begins with the guess; the sign is not seen.
    Source: reference system 2, check_numbers_extraction.
    """
    opening = row.text.find(_OPEN)
    number = _NUMBER.search(row.text, opening + len(_OPEN)) if opening >= 0 else None
    try:
        return 1.5 if number and float(number[0].strip()) == float(row.gold.strip()) else 0.0
    except ValueError:
        return 0.0


def solution_text(text: str) -> str | None:
    """Return what the notebook's format pattern captures as the answer, None where it does not match."""
    start = _LINE_LED_START.search(text)
    solution = _SOLUTION.match(text, start.end()) if start else None
    return solution[1] if solution else None
