"""The five rewards of the well-known GRPO notebook for Qwen2.5-0.5B-Instruct on GSM8K, faults included.

They let a run be compared with that notebook; `sound.py` has the rewards to train with. Known faults, all kept: the
answer is compared as a string ("1,200" is not "1200"), text without tags counts as the answer, the last of several
answer blocks counts, "²" and Arabic-Indic digits are integers, the form pays with a wrong or an empty answer.
The patterns of the original are matched here without backtracking: the same outcome, in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mathgrpo.rewards.signature import Completions, completion_texts

_MIDDLE = re.compile(r"</reasoning>\s*<answer>")
_STRICT_MIDDLE = "\n</reasoning>\n<answer>\n"
_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def last_answer_text(text: str) -> str:
    """Return what stands between the last <answer> and the </answer> after it; without tags, the whole text.

    Example:
        >>> last_answer_text("<answer>7</answer><answer> 18 </answer>"), last_answer_text("18")
        ('18', '18')
    """
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()


def reference_correctness(prompts: Any, completions: Completions, answer: Sequence[str], **columns: Any) -> list[float]:
    """Return 2.0 where the answer text equals the gold text, else 0.0."""
    texts = completion_texts(completions)
    return [2.0 if last_answer_text(text) == gold else 0.0 for text, gold in zip(texts, answer, strict=True)]


def reference_integer(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 0.5 where the answer text is all digits (of any script), else 0.0."""
    return [0.5 if last_answer_text(text).isdigit() else 0.0 for text in completion_texts(completions)]


def reference_strict_format(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 0.5 where each tag has its own line and a line break ends the text, else 0.0."""
    return [0.5 if _is_strict(text) else 0.0 for text in completion_texts(completions)]


def reference_soft_format(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 0.5 where the text begins with a reasoning block and an answer block follows it, else 0.0."""
    return [0.5 if _is_soft(text) else 0.0 for text in completion_texts(completions)]


def reference_xml_count(prompts: Any, completions: Completions, **columns: Any) -> list[float]:
    """Return 0.125 for each of the four tags that occurs anywhere: 0.0 to 0.5."""
    return [sum(0.125 for tag in _TAGS if tag in text) for text in completion_texts(completions)]


def _is_strict(text: str) -> bool:
    opening = "<reasoning>\n"
    if not text.startswith(opening):
        return False
    middle = text.find(_STRICT_MIDDLE, len(opening))
    if middle < 0:
        return False
    # The earliest middle is the most generous one. A pattern's "$" also matches before one last line break.
    rest = text[middle + len(_STRICT_MIDDLE) :]
    return rest.endswith(("\n</answer>\n", "\n</answer>\n\n"))


def _is_soft(text: str) -> bool:
    opening = "<reasoning>"
    middle = _MIDDLE.search(text, len(opening)) if text.startswith(opening) else None
    return middle is not None and text.find("</answer>", middle.end()) >= 0
