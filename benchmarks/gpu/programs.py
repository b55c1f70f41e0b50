"""The project's command line, run as a user runs it, with its output kept."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.case import Numbers, Setup
from benchmarks.gpu.driver import last_words

LIMIT_S = 150.0
"""No command of the kit takes longer, in a rehearsal on two slow cores either."""
SPARE_S = 3.0
"""Of the stage's time, what is left for recording a command that did not end."""
STOP_S = 30.0
"""How long a command that was asked to stop may take: a step and a checkpoint."""


class CommandFailed(RuntimeError):
    """A command that ended as it should not have, with the last line of its output."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that is over.

    Attributes:
        output: what it printed, errors too.
        seconds: from its start.
    """

    code: int
    output: str
    seconds: float


class Program:
    """A command under way: `mathgrpo WORDS` in the folder that all stages share."""

    def __init__(self, setup: Setup, *words: str) -> None:
        self._setup, self._started = setup, time.monotonic()
        self.line = shlex.join(["mathgrpo", *words])
        handle, name = tempfile.mkstemp(prefix="output-", suffix=".txt", dir=setup.scratch)
        self._output = Path(name)
        # The stages' own process may interpret Triton's kernels; no user does.
        env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        env |= {"OMP_NUM_THREADS": "1"} if setup.rehearse else {}  # the other cores are left to others
        with os.fdopen(handle, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mathgrpo", *words], cwd=setup.scratch, env=env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Do to it what Ctrl-C does."""
        if self.goes_on:
            self._process.send_signal(signal.SIGINT)

    def end(self, limit_s: float = LIMIT_S, code: int = 0) -> Ended:
        """Return the command once it is over.

        Raises: CommandFailed when it takes longer, or ends with another exit code.
        """
        limit = max(1.0, min(limit_s, self._setup.seconds_left - SPARE_S))
        try:
            found = self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._keep()
            raise CommandFailed(f"{self.line}: not over after {limit:.0f} s; {last_words(self._output)}") from None
        self._keep()
        if found != code:
            raise CommandFailed(f"{self.line}: exit code {found}, not {code}: {last_words(self._output)}")
        output = self._output.read_text(encoding="utf-8", errors="replace")
        return Ended(found, output, time.monotonic() - self._started)

    def _keep(self) -> None:
        """Append the output to the stages' log, in one piece: commands may end at the same time."""
        with self._setup.log.open("ab") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.write(f"\n$ {self.line}\n".encode() + self._output.read_bytes())
            log.flush()


def run(setup: Setup, *words: str, limit_s: float = LIMIT_S) -> Ended:
    """Return a command that has ended well.

    Raises: CommandFailed otherwise.
    """
    return Program(setup, *words).end(limit_s)


def sets(**settings: object) -> list[str]:
    """Return the options that change a recipe's settings; section__key stands for section.key.

    Example:
        >>> sets(training__steps=3)
        ['--set', 'training.steps=3']
    """
    return [word for name, value in settings.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def free_folder(root: Path, name: str) -> Path:
    """Return the folder of a run that is still to be made: nothing is in the way of a second try."""
    return next(path for path in (root / f"{name}-{i}" for i in range(1, 1000)) if not path.exists())


def read_rows(run_folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run so far, of which a line that is being written is no part yet."""
    path = run_folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


class SideBySide:
    """Works that do not wait for one another: together on a GPU, whose host has the cores, in turn in a rehearsal.

    Most of a short command's time is its imports.
    """

    def __init__(self, setup: Setup, works: Mapping[str, Callable[[], Numbers]]) -> None:
        self._setup, self._works = setup, works
        self._under_way: dict[str, Future[Numbers]] = {}

    def begin(self) -> None:
        """Start all of them, unless they are under way, or this is a rehearsal."""
        if self._under_way or self._setup.rehearse:
            return
        pool = ThreadPoolExecutor(max_workers=len(self._works))
        self._under_way = {name: pool.submit(work) for name, work in self._works.items()}
        pool.shutdown(wait=False)

    def result(self, name: str) -> Numbers:
        """Return what a work found, or raise what it raised."""
        self.begin()
        return self._under_way[name].result() if name in self._under_way else self._works[name]()
