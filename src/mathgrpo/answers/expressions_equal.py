"""Whether two LaTeX texts are the same value, by math-verify: runs in the grader's child process only.

sympy can hang and eat memory, so nothing here is called in the trainer's process; `latex_child.py` is.
"""

from __future__ import annotations

from typing import Any

RELATIVE_TOLERANCE = 1e-12


def compare(gold: str, answer: str) -> str:
    """Return "correct", "wrong", "refused" (the answer), or "bad_gold"."""
    from math_verify import verify

    gold_value, answer_value = read(gold), read(answer)
    if gold_value is None:
        return "bad_gold"
    if answer_value is None:
        return "refused"
    equal = verify([gold_value], [answer_value], timeout_seconds=None)
    return "correct" if equal and close(gold_value, answer_value) else "wrong"


def read(text: str) -> Any:
    """Return the sympy expression of a LaTeX text, None if it is none: its grammar only, which never evals."""
    from math_verify import LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0)]
    found = parse(
        f"\\boxed{{{text}}}", targets, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None
    )
    return found[0] if found else None


def close(gold: Any, answer: Any) -> bool:
    """Return whether two numbers agree in relative terms (math-verify rounds to 6 decimals); True otherwise."""
    if gold == answer and getattr(gold, "is_extended_real", False):
        return True  # infinity less infinity is no number
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return True
    from sympy import Abs, N

    difference, scale = N(Abs(gold - answer), 30), N(Abs(gold), 30)
    return bool(difference <= RELATIVE_TOLERANCE * scale)
