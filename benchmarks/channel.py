"""JSON lines between the orchestrator and a worker: the two ends of one pipe."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

STOP_TIMEOUT = 20.0
"""Seconds that a process has to end by itself."""


class WorkerError(RuntimeError):
    """A worker that failed, ended or fell silent; the message is one line."""


class Control:
    """The worker's end. Whatever libraries print goes to stderr, so that the pipe carries nothing else."""

    def __init__(self) -> None:
        self._commands: TextIO = sys.stdin
        self._replies = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def next(self) -> dict[str, Any] | None:
        """Return the next command, waiting without using the processor; None at the end."""
        line = self._commands.readline()
        command: dict[str, Any] = json.loads(line) if line.strip() else {"do": "stop"}
        return None if command["do"] == "stop" else command

    def reply(self, **fields: Any) -> None:
        """Answer the command under way."""
        self._replies.write(json.dumps(fields) + "\n")
        self._replies.flush()


class Worker:
    """The orchestrator's end: a process that stays alive, and idle between commands."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self._log = log.open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=dict(env), bufsize=0
        )
        self._rest = b""

    def send(self, **command: Any) -> None:
        """Send a command; the reply is read with `receive`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(command) + "\n").encode())
        except BrokenPipeError:
            raise WorkerError(self._last_words("ended")) from None

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the reply to the last command.

        Raises: WorkerError when the worker says so, ends, or does not answer within timeout seconds.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise WorkerError(self._last_words(f"gave no answer in {timeout:.0f} s"))
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise WorkerError(self._last_words("ended"))
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.name}: {reply['error']}")
        return reply

    def ask(self, timeout: float, **command: Any) -> dict[str, Any]:
        """Return the reply to a command."""
        self.send(**command)
        return self.receive(timeout)

    def cpu_seconds(self) -> float:
        """Return the processor time the process has used so far, 0 where the system does not say (proc(5), stat)."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process: by asking, then by force. Nothing is left running."""
        if self._process.poll() is None:
            try:
                self.send(do="stop")
                self._process.wait(STOP_TIMEOUT)
            except (WorkerError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def _last_words(self, what: str) -> str:
        self._log.flush()
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{self.name}: {what}" + (f" ({lines[-1][:200]})" if lines else "")
