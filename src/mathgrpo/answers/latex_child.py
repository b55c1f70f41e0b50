"""The process that runs math-verify on untrusted text: started by `latex.LatexChild`, never imported.

Reads one JSON object a line ({"gold", "answer"} or {"line"}) and writes one ({"verdict"}). It limits its own memory; a
kernel alarm ends it when a computation outlives the parent, since no Python code runs while a huge integer power does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

RELATIVE_TOLERANCE = 1e-12


def main(memory_mib: int, alarm_s: int) -> None:
    """Answer questions until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints cannot write into the replies
    try:
        import math_verify  # noqa: F401
    except ImportError:
        print(json.dumps({"ready": False}), file=replies)
        return
    limit_memory(memory_mib)
    print(json.dumps({"ready": True}), file=replies)
    for line in sys.stdin:
        question = json.loads(line)
        signal.alarm(alarm_s)
        try:
            line_only = "line" in question
            verdict = check_line(question["line"]) if line_only else compare(question["gold"], question["answer"])
        except Exception:  # anything sympy can raise, MemoryError and RecursionError too: the parent counts it
            verdict = "error"
        signal.alarm(0)
        print(json.dumps({"verdict": verdict}), file=replies)


def limit_memory(memory_mib: int) -> None:
    """Cap the address space where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # not on this system: the wall limit still holds


def compare(gold: str, answer: str) -> str:
    """Return "correct", "wrong", "unreadable" (the answer), or "bad_gold"."""
    from math_verify import verify

    gold_value, answer_value = read(gold), read(answer)
    if gold_value is None:
        return "bad_gold"
    if answer_value is None:
        return "unreadable"
    equal = verify([gold_value], [answer_value], timeout_seconds=None)
    return "correct" if equal and close(gold_value, answer_value) else "wrong"


def check_line(line: str) -> str:
    """Return "correct" if both sides of the line's first "=" are equal as plain expressions, else "wrong"."""
    from math_verify import ExprExtractionConfig, parse, verify

    left, right = (
        parse(side.strip(), extraction_config=[ExprExtractionConfig()], parsing_timeout=None)
        for side in line.split("=", 1)
    )
    return "correct" if verify(right, left, timeout_seconds=None) else "wrong"


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


if __name__ == "__main__":
    main(memory_mib=int(sys.argv[1]), alarm_s=int(sys.argv[2]))
