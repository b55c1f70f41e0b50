"""The process that grades untrusted LaTeX: started by `killable.KillableGrader`, never imported.

It loads math-verify once and forks workers, which do the work and can be killed at any moment: a fresh one costs
milliseconds. It reads one JSON object a line ({"id", "gold", "answer"} or {"id", "line"}), puts it to a free worker and
writes {"id", "verdict", "why"}, in whatever order they come; while it is busy also {} every half second, so that the
parent can tell waiting from a standstill. Questions that a worker fails at are put to a fresh one once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TICK_S = 0.5
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


@dataclass
class Question:
    """One question on its way. failed: why a worker failed at it; known by then is that a fresh one has to be asked."""

    words: dict[str, Any]
    failed: str = ""


@dataclass
class Worker:
    """A forked process, and what it is busy with."""

    pid: int
    channel: socket.socket
    question: Question | None = None
    deadline: float = 0.0
    limit: float = 0.0
    asked: int = 0
    heard: bytes = b""


@dataclass
class Supervisor:
    """Shares questions out among workers. replies: where the answers go."""

    limits: Limits
    replies: int
    work: Callable[[dict[str, Any]], dict[str, Any]]
    waiting: deque[Question] = field(default_factory=deque)
    workers: list[Worker] = field(default_factory=list)
    slow_left: float = 0.0
    refilled: float = 0.0
    ticked: float = 0.0

    def serve(self, questions: int) -> None:
        """Answer what comes from a file descriptor until it ends."""
        self.slow_left, self.refilled = self.limits.slow_s, time.monotonic()
        begun = b""
        while True:
            busy = [worker for worker in self.workers if worker.question is not None]
            first = min((worker.deadline for worker in busy), default=0.0)
            until = max(0.0, min(first - time.monotonic(), TICK_S)) if busy else None
            sources: list[Any] = [questions, *(worker.channel for worker in busy)]
            ready, _, _ = select.select(sources, [], [], until)
            if questions in ready:
                piece = os.read(questions, 1 << 16)
                if not piece:
                    return
                *lines, begun = (begun + piece).split(b"\n")
                self.waiting.extend(Question(json.loads(line)) for line in lines)
            for worker in busy:
                if worker.channel in ready:
                    self.hear(worker)
                elif time.monotonic() >= worker.deadline:
                    self.slow_left -= worker.limit
                    self.fail(worker, "timeout", f"no verdict within {worker.limit:g} s")
            self.share_out()
            self.tick()

    def tick(self) -> None:
        """Say that this process is alive, while something is expected of it."""
        now = time.monotonic()
        self.slow_left = min(self.limits.slow_s, self.slow_left + (now - self.refilled) / 4)
        self.refilled = now
        if now - self.ticked >= TICK_S and any(worker.question for worker in self.workers):
            self.ticked = now
            self.say({})

    def share_out(self) -> None:
        """Put what waits to workers that are free, or new."""
        while self.waiting:
            free = [worker for worker in self.workers if worker.question is None]
            fits = [worker for worker in free if not (self.waiting[0].failed and worker.asked)]
            if not fits and len(self.workers) >= self.limits.workers:
                if not free:
                    return
                self.end(free[0])
            self.ask(fits[0] if fits else self.fork(), self.waiting.popleft())

    def ask(self, worker: Worker, question: Question) -> None:
        """Put a question to a worker."""
        limits = self.limits
        usual = limits.second_s if question.failed else limits.first_s
        worker.limit = usual if self.slow_left > 0 else min(usual, limits.hurried_s)
        worker.question, worker.deadline = question, time.monotonic() + worker.limit
        worker.asked += 1
        with contextlib.suppress(OSError):  # it is gone: its channel says so at the next look
            worker.channel.sendall(json.dumps(question.words).encode() + b"\n")

    def hear(self, worker: Worker) -> None:
        """Take what a worker says: its reply, or that it is gone."""
        try:
            piece = worker.channel.recv(1 << 16)
        except OSError:
            piece = b""
        worker.heard += piece
        if not piece:
            self.fail(worker, "error", "the grader's process was killed")
        elif worker.heard.endswith(b"\n"):
            reply, worker.heard = json.loads(worker.heard), b""
            if reply["verdict"] == "error":
                self.fail(worker, "error", reply["why"])
                return
            question, worker.question = worker.question, None
            assert question is not None
            grown = reply.pop("grown")
            again = {"again": question.failed} if question.failed else {}
            self.say({"id": question.words["id"], **reply, **again})
            if grown:
                self.end(worker)

    def fail(self, worker: Worker, verdict: str, why: str) -> None:
        """End a worker that failed at its question, which goes to a fresh one unless this was it."""
        question = worker.question
        assert question is not None
        self.end(worker)
        if question.failed:
            self.say({"id": question.words["id"], "verdict": verdict, "why": f"{why}, after {question.failed}"})
        else:
            question.failed = why
            self.waiting.append(question)

    def fork(self) -> Worker:
        """Return a new worker."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            self.workers.append(Worker(pid, ours))
            return self.workers[-1]
        try:
            os.close(0)  # the parent's end tells by it that the trainer is gone; a worker must not hold it open
            os.close(self.replies)
            ours.close()
            for worker in self.workers:
                worker.channel.close()
            answer_questions(theirs, self.limits, self.work)
        finally:
            os._exit(0)

    def end(self, worker: Worker) -> None:
        """Kill a worker and bury it."""
        self.workers.remove(worker)
        worker.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(worker.pid, 0)

    def say(self, reply: dict[str, Any]) -> None:
        """Write a line to the parent."""
        os.write(self.replies, json.dumps(reply).encode() + b"\n")


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


WARM_UP = ({"gold": "\\frac{\\sqrt{12}}{x^2+1}", "answer": "(1,2)"}, {"gold": "x^2-1", "answer": "(x+1)(x-1)"})
"""Compared before the first fork: what sympy and the grammar build at their first use, no worker has to build again."""


def main(limits: Limits) -> None:
    """Answer questions until standard input ends."""
    replies = os.dup(1)
    os.dup2(2, 1)  # a library that prints cannot write into the replies
    try:
        import math_verify  # noqa: F401
    except ImportError:
        os.write(replies, b'{"ready": false}\n')
        return
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the parent may have found the package by a path of its own
    from mathgrpo.answers.two_stage_grammar import read_in_two_stages

    read_in_two_stages()
    for question in WARM_UP:
        worked_out(question)
    gc.freeze()  # shared with the workers for as long as nobody touches it
    os.write(replies, b'{"ready": true}\n')
    supervisor = Supervisor(limits, replies, worked_out)
    try:
        supervisor.serve(0)
    except BrokenPipeError:
        pass  # the parent is gone
    finally:
        for worker in list(supervisor.workers):
            supervisor.end(worker)


if __name__ == "__main__":
    main(Limits(**json.loads(sys.argv[1])))
