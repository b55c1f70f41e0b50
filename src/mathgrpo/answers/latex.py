"""Grading of LaTeX expressions by math-verify, always in a child process that can be killed.

Only golds that are no plain numbers come here. sympy can hang while holding the interpreter's lock and can eat all
memory, so nothing of it runs in this process: the child has a memory cap, each question a wall limit, and a child
that oversteps is killed and replaced. Most hostile answers do not get that far: `refusal` turns them away by size.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import subprocess
import sys
import threading
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path

from mathgrpo.arithmetic.expressions import bracket_depth
from mathgrpo.errors import UserError
from mathgrpo.types import Verdict

WALL_S = 3.0
"""Seconds for one comparison. Ordinary ones take milliseconds."""
START_S = 60.0
"""Seconds for the child to import math-verify (one or two on an idle machine)."""
MEMORY_MIB = 768
"""Address space of the child; an idle one needs a tenth of it."""
MAX_LATEX_CHARS = 300
MAX_LINE_CHARS = 1000
MAX_DEPTH = 12
MAX_POWERS = 8
MAX_EXPONENT = 200

_TOWER = re.compile(r"\^\s*\{?\s*[0-9]+\s*\^|\*\*")
_EXPONENT = re.compile(r"\^\s*\{?\s*-?\s*([0-9]+)")
_FACTORIAL = re.compile(r"([0-9]+)\s*!")
_LONG_INTEGER = re.compile(r"[0-9]{31}")
_HEAVY = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|binom|dbinom|tbinom|input|include|def|newcommand)(?![a-z])")
_CODE = re.compile(r"__|[\"'`@#]|[^\x20-\x7e\n\t°×÷π∞√≤≥≠∪∩±−·]")


def refusal(text: str) -> str | None:
    """Return why an expression is not even tried, None if it may be: a final answer is short and computes little.

    Example:
        >>> refusal("10^{1000000000}")
        'an exponent over 200'
    """
    if len(text) > MAX_LATEX_CHARS:
        return f"more than {MAX_LATEX_CHARS} characters"
    if _CODE.search(text):
        return "characters that no LaTeX answer has"
    if bracket_depth(text) > MAX_DEPTH:
        return f"brackets more than {MAX_DEPTH} deep"
    if text.count("^") > MAX_POWERS or _TOWER.search(text):
        return "a tower of powers"
    if any(_over(digits, MAX_EXPONENT) for digits in _EXPONENT.findall(text)):
        return f"an exponent over {MAX_EXPONENT}"
    if any(_over(digits, MAX_EXPONENT) for digits in _FACTORIAL.findall(text)):
        return "a large factorial"
    if _LONG_INTEGER.search(text):
        return "an integer of more than 30 digits"
    return "a sum, product, integral, limit or binomial left to compute" if _HEAVY.search(text) else None


def _over(digits: str, limit: int) -> bool:
    return len(digits) > 4 or int(digits) > limit


class LatexChild:
    """One killable process that compares expressions; started at the first question, restarted after a kill."""

    def __init__(self, memory_mib: int = MEMORY_MIB) -> None:
        self.starts = 0
        self._memory_mib = memory_mib
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, gold: str, answer: str, wall_s: float = WALL_S) -> str:
        """Return "correct", "wrong", "refused", "bad_gold", "timeout" or "error", after at most about `wall_s`.

        Raises:
            UserError: math-verify is not installed.
        """
        return self._verdict({"gold": gold, "answer": answer}, wall_s)

    def ask_line(self, line: str, wall_s: float = WALL_S) -> str:
        """Return "correct" when both sides of a line's first "=" are equal, else as `ask` does."""
        return self._verdict({"line": line}, wall_s)

    def _verdict(self, question: dict[str, str], wall_s: float) -> str:
        with self._lock:
            try:
                reply = self._exchange(question, wall_s)
                verdict = str(json.loads(reply)["verdict"]) if reply else "error"
            except TimeoutError:
                verdict = "timeout"
            except OSError:
                verdict = "error"
            if verdict in ("timeout", "error"):
                self._kill()  # it may hold memory or be gone; the next question gets a fresh one
            return verdict

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._kill()

    def _exchange(self, question: dict[str, str], wall_s: float) -> str:
        process = self._started(wall_s)
        assert process.stdin is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        return _line(process, wall_s)

    def _started(self, wall_s: float) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None and self._owner == os.getpid():
            return self._process
        # -P: the script's own folder must not be searched, its numbers.py is not the standard library's.
        command = [sys.executable, "-P", str(Path(__file__).with_name("latex_child.py"))]
        command += [str(self._memory_mib), str(math.ceil(wall_s) + 5)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is for the trainer, which still grades its last rollouts
        )
        self._process, self._owner, self.starts = process, os.getpid(), self.starts + 1
        reply = _line(process, START_S)
        if not reply or not json.loads(reply)["ready"]:
            self._kill()
            raise UserError("problems: a gold is LaTeX and math-verify does not start; pip install math-verify")
        return process

    def _kill(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None


def _line(process: subprocess.Popen[str], wall_s: float) -> str:
    """Return the next line of a process, "" when it has ended. Raises TimeoutError when neither comes in time."""
    assert process.stdout is not None
    if not wait([process.stdout.fileno()], wall_s):
        raise TimeoutError
    return process.stdout.readline()


_child = LatexChild()
atexit.register(_child.close)


_WHY = {
    "correct": "the same expression as the gold",
    "wrong": "another expression than the gold",
    "refused": "this is not read as an expression",
    "bad_gold": "the gold is not read as an expression",
    "timeout": f"the comparison took more than {WALL_S:g} s",
    "error": "the comparison failed",
}


@lru_cache(maxsize=4096)
def latex_verdict(answer: str, gold: str) -> Verdict:
    """Return the verdict on an answer to a LaTeX gold; "error" also when the gold itself cannot be read.

    Cached: the completions of a group repeat each other's answers.
    """
    refused = refusal(answer)
    if refused is not None:
        return Verdict("refused", answer, "latex", f"not tried: {refused}")
    outcome = _child.ask(gold, answer)
    return Verdict("error" if outcome == "bad_gold" else outcome, answer, "latex", _WHY[outcome])  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def latex_gold_problem(gold: str) -> str | None:
    """Return in words why a gold is no readable LaTeX expression, None if it is one."""
    refused = refusal(gold)
    if refused is not None:
        return f"has {refused}"
    verdict = _child.ask(gold, gold)
    return None if verdict == "correct" else f"cannot be compared, not even with itself ({verdict})"


@lru_cache(maxsize=8192)
def arithmetic_line_verdict(line: str) -> str:
    """Return "correct" when math-verify finds both sides of a line's first "=" equal, as plain expressions in prose.

    This is the step check of the step-verified reasoning notebook; long lines are "refused" and never tried.
    """
    if len(line) > MAX_LINE_CHARS:
        return "refused"
    return _child.ask_line(line)
