"""math-verify's default parse and verify as a process of its own, so that what it cannot end can be killed.

As a script it reads one JSON object a line ({"answer", "gold"}) and writes {"paid"}; `MathVerify` is its other end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from multiprocessing.connection import wait
from typing import Any

WALL_S = 12.0
"""math-verify gives reading each text and comparing them 5 s by an alarm; some computations hear none."""


class MathVerify:
    """Asks the process; starts it anew after a kill."""

    def __init__(self) -> None:
        self.killed = 0
        self._process: subprocess.Popen[str] | None = None

    def paid(self, answer: str, gold: str) -> bool:
        """Return whether it takes an answer for the gold; False where it has to be killed."""
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"answer": answer, "gold": gold}) + "\n")
        process.stdin.flush()
        reply = process.stdout.readline() if wait([process.stdout.fileno()], WALL_S) else ""
        if reply:
            return bool(json.loads(reply)["paid"])
        self.killed += 1
        self.close()
        return False

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def _start() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.grading_peer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


def main() -> None:
    """Answer until standard input ends."""
    from math_verify import parse, verify

    print(json.dumps({"ready": time.time()}), flush=True)
    for line in sys.stdin:
        pair: dict[str, Any] = json.loads(line)
        try:
            paid = verify(parse(f"${pair['gold']}$"), parse(f"\\boxed{{{pair['answer']}}}"))
        except Exception:
            paid = False
        print(json.dumps({"paid": bool(paid)}), flush=True)


if __name__ == "__main__":
    main()
