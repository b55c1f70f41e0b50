"""Three form rewards of the GRPO demo gist that the one-shot notebook for Qwen2.5-0.5B extends, faults included.

The other two of its five are `reference_correctness` and `reference_integer`. It differs from `qwen_notebook.py`, a
later version: a line break inside a block fails both patterns, and text behind the answer costs.
The patterns are matched here without backtracking: the same outcome, in linear time.
"""

from __future__ import annotations

import math
import re

from mathgrpo.rewards.reward import Pay, Row, reward

_STRICT = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
_MIDDLE = re.compile(r"</reasoning>\s*<answer>")
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
    return 0.5 if _is_soft(row.text) else 0.0


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


def _is_soft(text: str) -> bool:
    opening = "<reasoning>"
    if not text.startswith(opening):
        return False
    first_line_end = text.find("\n") % (len(text) + 1)  # -1, no line break: the end of the text
    middles = [m for m in _MIDDLE.finditer(text, len(opening)) if m.start() + len("</reasoning>") <= first_line_end]
    # Of those whose answer begins in the first line the earliest is the most generous; the last may cross the line.
    return any(_closes_in_line(text, middle.end()) for middle in (middles[:1] + middles[-1:]))


def _closes_in_line(text: str, start: int) -> bool:
    closing = text.find("</answer>", start)
    return closing >= 0 and text.find("\n", start, closing) < 0
