"""The process that runs math-verify on untrusted text: started by `latex.LatexChild`, never imported.

Reads one JSON object a line ({"gold", "answer"} or {"line"}) and writes one ({"verdict"}). It limits its own memory; a
kernel alarm ends it when a computation outlives the parent, since no Python code runs while a huge integer power does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main(memory_mib: int, alarm_s: int) -> None:
    """Answer questions until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints cannot write into the replies
    try:
        import math_verify  # noqa: F401
    except ImportError:
        print(json.dumps({"ready": False}), file=replies)
        return
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the parent may have found the package by a path of its own
    from mathgrpo.answers.expressions_equal import compare

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


def check_line(line: str) -> str:
    """Return "correct" if both sides of the line's first "=" are equal as plain expressions, else "wrong"."""
    from math_verify import ExprExtractionConfig, parse, verify

    left, right = (
        parse(side.strip(), extraction_config=[ExprExtractionConfig()], parsing_timeout=None)
        for side in line.split("=", 1)
    )
    return "correct" if verify(right, left, timeout_seconds=None) else "wrong"


if __name__ == "__main__":
    main(memory_mib=int(sys.argv[1]), alarm_s=int(sys.argv[2]))
