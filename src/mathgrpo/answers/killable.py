"""Questions to the processes that grade LaTeX, from any thread: sent at once, answered as they come.

sympy can hang while holding the interpreter's lock and can eat all memory, so nothing of it runs in this process.
`latex_child.py` runs beside it and forks workers; it is started at the first question. What it answers late or not at
all is asked once more, in a fresh one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from mathgrpo.errors import UserError

START_S = 60.0
"""Seconds for the process to import math-verify (half a second on an idle machine)."""
STALL_S = 2.0
"""Seconds of silence, with questions open, after which the process counts as standing still; it speaks every 0.5."""
PAUSE_S = 10.0
"""Seconds without a new attempt when the process has died twice before it was ready."""
MAX_KEPT = 32_768
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from mathgrpo.answers.latex_child import main; main(sys.argv[2])"
MAX_WORKERS = 4


class Reply(NamedTuple):
    """What the process says: an outcome and, unless it is correct or wrong, why."""

    verdict: str
    why: str = ""


FINAL = frozenset(("correct", "wrong", "refused", "bad_gold"))
"""Outcomes that the question decides; any other one may be different the next time and is not kept."""


@dataclass
class _Open:
    """A question without an answer yet. failed: what became of the process it was put to before."""

    words: dict[str, str]
    future: Future[Reply] = field(default_factory=Future)
    failed: str = ""


class KillableGrader:
    """The processes, their verdicts so far, and what went wrong with them.

    limits: as of `latex_worker.Limits`; workers by default as many as this process has cores, at most four.

    Attributes:
        asked: questions put to the process so far.
        workers: how many of them it may work on at a time.
        mishaps: how often the process "was killed", "stood still" or "did not start", a question was "asked again" in a
            fresh worker and then decided, and none was: "timeout", "error".
    """

    def __init__(self, **limits: float) -> None:
        self.asked = 0
        self.mishaps: Counter[str] = Counter()
        self._limits = {"workers": worker_count(), **limits}
        self.workers = int(self._limits["workers"])
        self._kept: OrderedDict[tuple[tuple[str, str], ...], Reply] = OrderedDict()
        self._forget()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Have no process, as at the beginning and in a fork of the trainer, which must not use its parent's."""
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is not None:
            _close_pipes(process)  # this copy of them; the parent's stay open
            process.returncode = 0  # not ours to wait for
        self._lock = threading.RLock()
        self._open: dict[int, _Open] = {}
        self._same: dict[tuple[tuple[str, str], ...], int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._heard = 0.0
        self._failed_starts = 0
        self._paused_until = 0.0

    def ask(self, **words: str) -> Reply:
        """Return the reply to a question ({gold, answer} or {line}); a final one is kept.

        Raises:
            UserError: math-verify is not installed.
        """
        key = tuple(words.items())
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if time.monotonic() < self._paused_until:
                self.mishaps["error"] += 1
                return Reply("error", "the grader's process does not start")
            if key in self._same:
                future = self._open[self._same[key]].future
            else:
                self.asked += 1
                self._same[key] = self.asked
                future = (question := _Open(words)).future
                self._open[self.asked] = question
                self._send(self.asked)
        return future.result()

    def close(self) -> None:
        """End the process, if there is one; it is started again at the next question."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                self._bury(process)
            self._settle_all(Reply("error", "the grader was closed"))

    def _send(self, number: int) -> None:
        if not self._open.keys() - {number}:
            self._heard = time.monotonic()
        try:
            process = self._process or self._start()
        except OSError as error:  # no process more, no memory
            self._settle(number, Reply("error", f"the grader's process does not start ({error.strerror})"))
            return
        assert process.stdin is not None
        line = json.dumps({"id": number, **self._open[number].words}) + "\n"
        with contextlib.suppress(OSError):  # it is gone: the listener sees that and sends all that is open again
            os.write(process.stdin.fileno(), line.encode())

    def _start(self) -> subprocess.Popen[bytes]:
        # The package's place is told: this process may have found it by a path of its own.
        command = [sys.executable, "-P", "-c", _CHILD, str(Path(__file__).parents[2]), json.dumps(self._limits)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is for the trainer, which still grades its last rollouts
        )
        self._process, self._ready, self._heard = process, False, time.monotonic()
        threading.Thread(target=self._listen, args=(process,), daemon=True, name="latex-grader").start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Take replies until the process has ended or stands still; a thread of its own for each process."""
        assert process.stdout is not None
        begun, why = b"", "was killed"
        while True:
            if wait([process.stdout.fileno()], 0.5):
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    break
                *lines, begun = (begun + piece).split(b"\n")
                for line in lines:
                    self._take(process, json.loads(line))
            elif self._stands_still(process):
                why = "stood still"
                break
        self._lost(process, why)
        _close_pipes(process)

    def _take(self, process: subprocess.Popen[bytes], reply: dict[str, Any]) -> None:
        with self._lock:
            if process is not self._process:
                return
            self._heard = time.monotonic()
            if "ready" in reply:
                self._ready, self._failed_starts = True, 0
                if not reply["ready"]:
                    problem = "problems: a gold is LaTeX and math-verify does not start; pip install math-verify"
                    self._settle_all(UserError(problem))
            elif "id" in reply:
                if "again" in reply:
                    self.mishaps["asked again"] += 1
                self._settle(reply["id"], Reply(reply["verdict"], reply.get("why", "")))

    def _stands_still(self, process: subprocess.Popen[bytes]) -> bool:
        with self._lock:
            patience = STALL_S if self._ready else START_S
            silent = bool(self._open) and time.monotonic() - self._heard > patience
            return silent or process is not self._process

    def _lost(self, process: subprocess.Popen[bytes], why: str) -> None:
        """Put what is open to a new process, unless this was the second one."""
        with self._lock:
            if process is not self._process:
                return
            self._process = None
            self._bury(process)
            if not self._ready:
                why, self._failed_starts = "did not start", self._failed_starts + 1
            self.mishaps[why] += 1
            if self._failed_starts > 1:
                self._paused_until = time.monotonic() + PAUSE_S
            for number, question in list(self._open.items()):
                if question.failed:
                    self._settle(number, Reply("error", f"the grader's process {question.failed}, the next one {why}"))
                else:
                    question.failed = why
                    self._send(number)

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process with its workers, and wait for it."""
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # nobody has waited for it yet, so the number is still its own
        process.wait()

    def _settle(self, number: int, reply: Reply | Exception) -> None:
        question = self._open.pop(number)
        key = tuple(question.words.items())
        self._same.pop(key, None)
        if isinstance(reply, Exception):
            question.future.set_exception(reply)
            return
        if reply.verdict in FINAL:
            self._kept[key] = reply
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        else:
            self.mishaps[reply.verdict] += 1
        question.future.set_result(reply)

    def _settle_all(self, reply: Reply | Exception) -> None:
        for number in list(self._open):
            self._settle(number, reply)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def worker_count() -> int:
    """Return how many workers a process may have: its share of the machine's cores, one to four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = os.environ.get("LOCAL_WORLD_SIZE", "1")  # processes of a distributed run on this machine
    return max(1, min(MAX_WORKERS, cores // max(1, int(here) if here.isdigit() else 1)))
