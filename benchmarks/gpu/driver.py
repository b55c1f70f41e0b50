"""Runs stages as processes with time limits. Needs nothing but Python: what a machine lacks must not stop the kit.

A stage's process tells of each case as it begins and ends. A case that hangs, or takes its process with it, is recorded
as such, and the stage goes on behind it in a new process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import CHANNEL, LOST_DEVICE
from benchmarks.gpu.plan import LEAST_S, Stage
from benchmarks.gpu.record import Line, Record, at_size

Say = Callable[[str], None]
PATIENCE_S = 3.0
"""How long a process that was told to end may take before it is killed."""
LOOK_S = 0.5
"""How often a silent process is looked at."""
EXIT_S = 10.0
"""How long a process may take to give back its device once it has said all."""


@dataclass(slots=True)
class Driver:
    """What all stages of a run share.

    Attributes:
        setup: the fields of `case.Setup` that hold for every stage.
        deadline: of time.monotonic(): when the run is over.
    """

    record: Record
    setup: dict[str, Any]
    env: Mapping[str, str]
    log: Path
    deadline: float
    say: Say

    def run(self, stage: Stage) -> None:
        """Run a stage to its end, or to its limit, whatever its cases do."""
        started = time.monotonic()
        limit = min(self._limit(stage), self.deadline - started)
        if limit < LEAST_S:
            self.record.add(stage=stage.name, status="skipped", seconds=0.0, error="no time was left for it")
            self.say(f"{stage.name}: skipped, no time was left for it")
            return
        self.say(f"{stage.name}: {stage.title} (at most {limit:.0f} s)")
        passed_over: list[str] = []
        while True:
            left = limit - (time.monotonic() - started)
            going = _Process(self, stage, passed_over, left)
            again = going.follow()
            passed_over = going.passed_over
            if not again or limit - (time.monotonic() - started) < LEAST_S:
                break
        spent = time.monotonic() - started
        self.record.add(stage=stage.name, status=going.outcome, seconds=round(spent, 1), limit_s=round(limit, 1),
                        error="")  # fmt: skip

    def _limit(self, stage: Stage) -> float:
        return stage.rehearsal_s if self.setup["rehearse"] else stage.limit_s


@dataclass(slots=True)
class _Process:
    """One process of a stage.

    Attributes:
        passed_over: cases that have a line already.
        outcome: of the stage, as far as this process took it: "done", "out of time" or "failed".
        case: the one under way.
    """

    driver: Driver
    stage: Stage
    passed_over: list[str]
    left_s: float
    outcome: str = "done"
    case: dict[str, Any] | None = None
    case_ends: float = float("inf")
    begun: float = 0.0
    _rest: bytes = field(default=b"")

    def follow(self) -> bool:
        """Run the process; return whether the stage should go on in another."""
        deadline = time.monotonic() + self.left_s
        reader, writer = os.pipe()
        given = self.driver.setup | {"passed_over": self.passed_over, "limit_s": self.left_s}
        command = [sys.executable, "-m", "benchmarks.gpu.child", self.stage.name, json.dumps(given)]
        with self.driver.log.open("ab") as log:
            log.write(f"\n===== {self.stage.name} =====\n".encode())
            log.flush()
            process = subprocess.Popen(
                command, env={**self.driver.env, CHANNEL: str(writer)}, pass_fds=(writer,), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        os.close(writer)
        hung = True  # until it is known to have ended by itself: Ctrl-C comes at any time
        try:
            hung = self._listen(process, reader, deadline)
        finally:
            end_process_group(process, leave_s=0.0 if hung else EXIT_S)
            os.close(reader)
        return self._judge(process.returncode, hung, deadline)

    def _listen(self, process: subprocess.Popen[bytes], reader: int, deadline: float) -> bool:
        """Take messages until the process is over; return True when a time was up first.

        Its end of the pipe may stay open behind it: what it started (a compiler's workers) has it too.
        """
        while True:
            left, ended = min(deadline, self.case_ends) - time.monotonic(), process.poll() is not None
            if not select.select([reader], [], [], min(max(left, 0.0), LOOK_S))[0]:
                if ended or left <= 0:
                    return not ended
                continue
            chunk = os.read(reader, 1 << 16)
            if not chunk:
                return False
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "begin" in message:
            self.case, self.begun = message, time.monotonic()
            self.case_ends = self.begun + message["limit_s"] if message["limit_s"] else float("inf")
            return
        self._note(**message)

    def _note(self, **fields: Any) -> None:
        """Write a case's line and say it."""
        line = self.driver.record.add(stage=self.stage.name, **fields)
        self.passed_over = [*self.passed_over, line["case"]]
        self.case, self.case_ends = None, float("inf")
        self.driver.say(f"  {told(line)}")

    def _judge(self, code: int, hung: bool, deadline: float) -> bool:
        """Record what a process that is over leaves unsaid; return whether the stage goes on."""
        over = time.monotonic() >= deadline
        if self.case is None and not hung and code in (0, LOST_DEVICE):
            return code == LOST_DEVICE
        begun, case = self.case is not None, self.case or {"begin": "its process", "size": "", "limit_s": 0.0}
        seconds = round(time.monotonic() - self.begun, 1) if begun else 0.0
        if hung:
            limit = case["limit_s"] if not over and case["limit_s"] else self.left_s
            status, error = "timed out", f"ended after {seconds or limit:.0f} s, " + (
                "when its stage's time was over" if over else f"its limit of {limit:.0f} s")  # fmt: skip
        else:
            status, error = "died", f"{_how(code)}; last words: {last_words(self.driver.log)}"
        self._note(case=case["begin"], status=status, size=case["size"], numbers={}, error=error, seconds=seconds,
                   peak_bytes=0)  # fmt: skip
        self.outcome = "out of time" if over else "done" if begun else "failed"
        return begun and not over


def end_process_group(process: subprocess.Popen[bytes], leave_s: float) -> None:
    """Let a process end by itself, then by asking, then by force, and with it all that it started.

    Returns even when the system cannot end it, as one that waits for a device's driver.
    """
    for sign, wait in ((None, leave_s), (signal.SIGTERM, PATIENCE_S), (signal.SIGKILL, EXIT_S)):
        if sign is not None:
            _signal_group(process, sign)
        try:
            process.wait(wait)
            break
        except subprocess.TimeoutExpired:
            continue
    _signal_group(process, signal.SIGKILL)  # what it started and left behind
    if process.returncode is None:
        process.returncode = -signal.SIGKILL


def told(line: Line) -> str:
    """Return a case's line for the terminal, its first few numbers with it."""
    numbers = [f"{k}={short(v)}" for k, v in line["numbers"].items() if isinstance(v, int | float | str)][:6]
    detail = line["error"] or ", ".join(numbers)
    how = f"{line['status']}{at_size(line)} in {line['seconds']:.1f} s"
    return f"{line['case']}: {how}" + (f" ({detail})" if detail else "")


def short(value: Any) -> str:
    """Return a number in three or four digits, and anything else as it is.

    Example:
        >>> short(251_234.5), short(0.00123456), short(True), short("sdpa")
        ('251,234', '0.00123', 'yes', 'sdpa')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def last_words(log: Path, limit: int = 300) -> str:
    """Return the last line of a log that says anything."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:limit] if lines else "none"


def _how(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    hint = " (the system may have run out of memory)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"


def _signal_group(process: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    try:
        os.killpg(process.pid, sign)
    except (ProcessLookupError, PermissionError):
        return
