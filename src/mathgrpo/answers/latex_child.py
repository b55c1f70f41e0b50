"""The process that grades untrusted LaTeX: started by `killable.KillableGrader`.

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
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mathgrpo.answers.latex_worker import Limits, answer_questions, cpu_seconds, worked_out
from mathgrpo.answers.two_stage_grammar import read_in_two_stages

TICK_S = 0.5
STARVED_S = 0.05
"""Processor seconds under which a worker at its limit has hardly been given a processor."""


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
    cpu_s: float = 0.0
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
                    self.time_out(worker)
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
        worker.cpu_s = cpu_seconds(worker.pid)
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

    def time_out(self, worker: Worker) -> None:
        """Give up on a worker; one that has hardly been given a processor has as long again, once."""
        if worker.cpu_s >= 0 and cpu_seconds(worker.pid) - worker.cpu_s < STARVED_S:
            worker.cpu_s, worker.deadline = -1.0, time.monotonic() + worker.limit
            return
        self.slow_left -= worker.limit
        self.fail(worker, "timeout", f"no verdict within {worker.limit:g} s")

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


WARM_UP = ({"gold": "\\frac{\\sqrt{12}}{x^2+1}", "answer": "(1,2)"}, {"gold": "x^2-1", "answer": "(x+1)(x-1)"})
"""Compared before the first fork: what sympy and the grammar build at their first use, no worker has to build again."""


def main(limits: str) -> None:
    """Answer questions until standard input ends. limits: those of `Limits` that differ, as JSON."""
    replies = os.dup(1)
    os.dup2(2, 1)  # a library that prints cannot write into the replies
    try:
        import math_verify  # noqa: F401
    except ImportError:
        os.write(replies, b'{"ready": false}\n')
        return
    read_in_two_stages()
    for question in WARM_UP:
        worked_out(question)
    gc.freeze()  # shared with the workers for as long as nobody touches it
    os.write(replies, b'{"ready": true}\n')
    supervisor = Supervisor(Limits(**json.loads(limits)), replies, worked_out)
    try:
        supervisor.serve(0)
    except BrokenPipeError:
        pass  # the parent is gone
    finally:
        for worker in list(supervisor.workers):
            supervisor.end(worker)
