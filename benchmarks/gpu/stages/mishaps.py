"""What can go wrong with a case, on purpose: the driver is tested on it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

from benchmarks.gpu.case import Case, NotHere, Numbers, Setup, WrongNumbers


def cases(setup: Setup) -> Iterator[Case]:
    """Yield one case of every kind, and good ones between them."""
    yield Case("good", lambda: {"answer": 42})
    yield Case("fails", _fail)
    yield Case("wrong", _wrong)
    yield Case("not here", _not_here)
    yield Case("fills memory", _fill(setup.device), size="2^50 numbers")
    yield Case("fills the host's memory", lambda: {"bytes": len(bytearray(1 << 60))}, size="2^60 bytes")
    yield Case("hangs", _hang, limit_s=1.0)
    yield Case("loses the device", _lose)
    yield Case("dies", _die)
    yield Case("dies and leaves a process behind", _die_a_parent)
    yield Case("good again", lambda: {"answer": 43})
    yield Case("outlasts its stage", _hang)


def _fail() -> Numbers:
    raise ValueError("told to fail\nsecond line")


def _wrong() -> Numbers:
    raise WrongNumbers("off by 7", {"difference": 7.0})


def _not_here() -> Numbers:
    raise NotHere("nothing that could be carried")


def _fill(device: str) -> Callable[[], Numbers]:
    def fill() -> Numbers:
        import torch

        return {"numbers": torch.empty(1 << 50, device=device).numel()}

    return fill


def _hang() -> Numbers:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a process that waits for a device does
    time.sleep(3600)
    return {}


def _lose() -> Numbers:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _die_a_parent() -> Numbers:
    subprocess.Popen(["sleep", "600"], close_fds=False)  # which has this process's end of the channel too
    return _die()


def _die() -> Numbers:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}
