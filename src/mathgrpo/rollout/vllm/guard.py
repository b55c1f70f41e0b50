"""Keeps a server no longer than the trainer lives: started as a program of its own, with the standard library alone.

    python guard.py SCRATCH LOG COMMAND...

It starts COMMAND in a session of its own, copies its output to LOG, and ends the whole session when it ends itself,
when COMMAND does, or when its standard input closes, which happens however the trainer dies. A line "log PATH" on
standard input moves the log there. When the trainer died, the folder SCRATCH, with its weights, is removed too.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_SECONDS_TO_STOP = 10.0
"""Time a server gets to end by itself."""


def main(scratch: str, log: str, command: list[str]) -> int:
    """Run the command until it ends or standard input closes; return its exit status."""
    trainer = os.getppid()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    try:
        _copy(child, Path(log))
    finally:
        _end_session(child)
        if os.getppid() != trainer:  # it is dead: processes that lose their parent get another
            shutil.rmtree(scratch, ignore_errors=True)
    return child.returncode


def _copy(child: subprocess.Popen[bytes], path: Path) -> None:
    """Copy the child's output to the log until it ends, or until standard input closes."""
    assert child.stdout is not None
    output, orders = child.stdout.fileno(), 0
    while True:
        ready, _, _ = select.select([output, orders], [], [], 1.0)
        if orders in ready:
            line = os.read(orders, 65536)
            if not line:
                return
            old, path = path, Path(os.fsdecode(line).strip().removeprefix("log "))
            _append(path, old.read_bytes())
            old.unlink()
        if output in ready:
            text = os.read(output, 65536)
            if not text:
                return
            _append(path, text)
        elif child.poll() is not None:
            return


def _append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def _end_session(child: subprocess.Popen[bytes]) -> None:
    """End every process of the child's session: the child is asked to end them itself, then all are, then killed.

    Asked first, vLLM's server gives its shared memory back; children that end before it would leave that behind.
    """
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_SECONDS_TO_STOP)
    with contextlib.suppress(ProcessLookupError):  # raised as soon as nobody is left
        for signum in (0, signal.SIGTERM):
            os.killpg(child.pid, signum)
            until = time.monotonic() + _SECONDS_TO_STOP / 5
            while time.monotonic() < until:
                time.sleep(0.05)
                os.killpg(child.pid, 0)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
