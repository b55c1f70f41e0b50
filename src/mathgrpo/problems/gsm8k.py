"""GSM8K's answer column: a worked solution with calculator annotations, then "#### " and the gold answer.

Source: the official JSONL files of the data set (openai/grade-school-math).
"""

from __future__ import annotations

from mathgrpo.arithmetic.equations import ANNOTATION

MARKER = "####"
HUB_ID = "openai/gsm8k"
HUB_SUBSET = "main"


def split_answer(text: str) -> tuple[str, str | None] | None:
    """Return gold answer and cleaned solution of a GSM8K-shaped answer column; None when it is not one.

    It is one when a single line of text follows the last marker. The gold keeps its comma and sign as written; the
    solution is None when the marker comes first.

    Example:
        >>> split_answer("She sold 48/2 = <<48/2=24>>24 clips.\\n#### 1,200")
        ('1,200', 'She sold 48/2 = 24 clips.')
        >>> split_answer("18")
    """
    before, marker, after = text.rpartition(MARKER)
    gold = after.strip()
    if not marker or not gold or len(gold.splitlines()) > 1:
        return None
    return gold, clean_solution(before) or None


def clean_solution(text: str) -> str:
    """Return a solution without the calculator annotations and without spaces at line ends.

    Example:
        >>> clean_solution("2 pens cost 2*3=$<<2*3=6>>6. \\n")
        '2 pens cost 2*3=$6.'
    """
    return "\n".join(line.rstrip() for line in ANNOTATION.sub("", text).strip().splitlines())
