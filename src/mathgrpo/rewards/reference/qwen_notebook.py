"""The five rewards of the well-known GRPO notebook for Qwen2.5-0.5B-Instruct on GSM8K, faults included.

Known faults, all kept: the answer is compared as a string ("1,200" is not "1200"), text without tags counts as the
answer, the last of several answer blocks counts, "²" and Arabic-Indic digits are integers, the form pays with a wrong
or an empty answer. The patterns of the original are matched without backtracking: the same outcome, in linear time.
"""

from __future__ import annotations

import re

from mathgrpo.rewards.reward import Pay, Row, reward

# The earliest middle is the most generous one, so that it is never retried: (?>...).
_STRICT = re.compile(r"<reasoning>\n(?>.*?\n</reasoning>\n<answer>\n).*?\n</answer>\n$", re.DOTALL)
_SOFT = re.compile(r"<reasoning>(?>.*?</reasoning>\s*<answer>).*?</answer>", re.DOTALL)
_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def last_answer_text(text: str) -> str:
    """Return what stands between the last <answer> and the </answer> after it; without tags, the whole text.

    Example:
        >>> last_answer_text("<answer>7</answer><answer> 18 </answer>"), last_answer_text("18")
        ('18', '18')
    """
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()


@reward(family="reference 1", pay=Pay(0, 2, wrong=0), pays_right=True)
def reference_correctness(row: Row) -> float:
    """Return 2.0 where the answer text equals the gold text, else 0.0.

    Gaming: the last of several answers counts, and text without tags is an answer.
    Source: reference system 1, correctness_reward_func.
    """
    return 2.0 if last_answer_text(row.text) == row.gold else 0.0


@reward(family="reference 1", pay=Pay(0, 0.5, wrong=0.5))
def reference_integer(row: Row) -> float:
    """Return 0.5 where the answer text is all digits, else 0.0.

    Gaming: any digits of any script, right or wrong.
    Source: reference system 1, int_reward_func.
    """
    return 0.5 if last_answer_text(row.text).isdigit() else 0.0


@reward(family="reference 1", pay=Pay(0, 0.5, wrong=0.5))
def reference_strict_format(row: Row) -> float:
    """Return 0.5 where each tag has a line of its own and a line break ends the text, else 0.0.

    Gaming: empty blocks and wrong answers are paid.
    Source: reference system 1, strict_format_reward_func.
    """
    return 0.5 if _STRICT.match(row.text) else 0.0


@reward(family="reference 1", pay=Pay(0, 0.5, wrong=0.5))
def reference_soft_format(row: Row) -> float:
    """Return 0.5 for a reasoning block at the start and an answer block behind it, empty or not, else 0.0.

    Gaming: empty blocks, and any text behind them.
    Source: reference system 1, soft_format_reward_func.
    """
    return 0.5 if _SOFT.match(row.text) else 0.0


@reward(family="reference 1", pay=Pay(0, 0.5, wrong=0.5))
def reference_xml_count(row: Row) -> float:
    """Return 0.125 for each of <reasoning>, </reasoning>, <answer> and </answer> that occurs anywhere.

    Gaming: the tags alone.
    Source: reference system 1, xmlcount_reward_func.
    """
    return sum(0.125 for tag in _TAGS if tag in row.text)
