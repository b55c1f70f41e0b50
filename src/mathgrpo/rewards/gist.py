"""Three form rewards of the GRPO demo gist that the one-shot notebook for Qwen2.5-0.5B extends, faults included.

The other two of its five are `reference_correctness` and `reference_integer`. It differs from `reference.py`, a later
notebook's version: a line break inside a block fails both patterns, and text behind the answer costs.
The patterns are matched here without backtracking: the same outcome, in linear time.
"""

from __future__ import annotations

import re
from typing import Any

from mathgrpo.rewards.signature import Completions, completion_texts

_STRICT = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
_MIDDLE = re.compile(r"</reasoning>\s*<answer>")
PER_CHARACTER = 0.001
"""What `gist_xml_count` takes for a character behind the answer."""


def gist_strict_format(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 0.5 where each tag and each block has exactly one line and a line break ends the text, else 0.0."""
    # No part of this pattern can cross a line, so a failing match costs one pass at most.
    return [0.5 if _STRICT.match(text) else 0.0 for text in completion_texts(completions)]


def gist_soft_format(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 0.5 where the text begins with a reasoning block of one line and an answer block of one line follows."""
    return [0.5 if _is_soft(text) else 0.0 for text in completion_texts(completions)]


def gist_xml_count(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 0.125 for each tag that stands once with its line breaks, less 0.001 a character behind the answer."""
    return [_count(text) for text in completion_texts(completions)]


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


def _count(text: str) -> float:
    count = 0.125 * (text.count("<reasoning>\n") == 1) + 0.125 * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        count += 0.125
        count -= len(text.rpartition("\n</answer>\n")[2]) * PER_CHARACTER
    if text.count("\n</answer>") == 1:
        count += 0.125
        count -= (len(text.rpartition("\n</answer>")[2]) - 1) * PER_CHARACTER
    return count
