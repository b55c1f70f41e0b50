"""What a forked worker does: it answers one question after the other under limits, until it is told to end or killed.

Only here, in a process that nobody misses, sympy works on untrusted text.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE_S = 5
"""Seconds over its limit after which the kernel ends a worker that nobody watches any more."""


@dataclass
class Limits:
    """What a worker may use.

    Attributes:
        workers: at most so many at a time.
        memory_mib: address space of each; grown_mib: resident memory over which one is replaced.
        first_s, second_s: seconds for a question in a worker, and again in a fresh one.
        slow_s: seconds that questions in vain may cost in all before their limit is `hurried_s`; a quarter of the time
            that passes is added to it again.
    """

    workers: int = 2
    memory_mib: int = 768
    grown_mib: int = 300
    first_s: float = 0.5
    second_s: float = 1.0
    slow_s: float = 4.0
    hurried_s: float = 0.2


def answer_questions(channel: socket.socket, limits: Limits, work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Be a worker: answer until the channel ends. A kernel alarm ends it should nobody watch: no Python code runs
    while a huge integer power does."""
    limit_memory(limits.memory_mib)
    for line in channel.makefile():
        signal.alarm(int(max(limits.first_s, limits.second_s)) + GRACE_S)
        try:
            reply = work(json.loads(line))
        except Exception as error:  # anything that sympy can raise, RecursionError too
            reply = {"verdict": "error", "why": f"math-verify failed ({type(error).__name__})"}
        signal.alarm(0)
        held = resident_mib()
        if held > limits.memory_mib / 2 and reply["verdict"] != "correct":  # sympy takes its MemoryError for a "no"
            reply = {"verdict": "error", "why": f"more than {limits.memory_mib / 2:g} MiB of memory needed"}
        reply["grown"] = held > limits.grown_mib
        channel.sendall(json.dumps(reply).encode() + b"\n")


def limit_memory(memory_mib: int) -> None:
    """Cap the address space where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # not on this system: the wall limit still holds


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used, below 0 where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1024 if sys.platform != "darwin" else used / (1 << 20)


def worked_out(question: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to a question; called in workers only."""
    from mathgrpo.answers.expressions_equal import compare

    words = {name: word for name, word in question.items() if name != "id"}
    return {"verdict": check_line(**words) if "line" in words else compare(**words)}


def check_line(line: str) -> str:
    """Return "correct" if both sides of the line's first "=" are equal as plain expressions, else "wrong"."""
    from math_verify import ExprExtractionConfig, parse, verify

    left, right = (
        parse(side.strip(), extraction_config=[ExprExtractionConfig()], parsing_timeout=None)
        for side in line.split("=", 1)
    )
    return "correct" if verify(right, left, timeout_seconds=None) else "wrong"
