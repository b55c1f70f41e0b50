"""What a stage is made of: cases, each measured by itself and recorded at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]
"""What a case found out: names to numbers, texts, booleans, or lists and dictionaries of them."""


class NotHere(Exception):
    """A case that this machine cannot run, and why: a package or a file that is not there, no CUDA device."""


class WrongNumbers(AssertionError):
    """A case that ran and found something wrong.

    Attributes:
        numbers: what it had found out by then.
    """

    def __init__(self, message: str, numbers: Numbers) -> None:
        super().__init__(message)
        self.numbers = numbers


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Attributes:
        name: unique in its stage.
        run: does it, and returns its numbers. It may raise `NotHere`, `WrongNumbers`, or whatever it meets.
        size: what was asked of the device, for a reader who sees that memory ran out.
        limit_s: seconds it may take; 0: as long as its stage has.
    """

    name: str
    run: Callable[[], Numbers]
    size: str = ""
    limit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and how a stage runs.

    Attributes:
        device: "cuda", or "cpu" in a rehearsal.
        rehearse: sizes that say nothing about speed, so that all code runs on a CPU in seconds.
        carried: the folder that `pack.sh` made; None without one.
        scratch: a folder that all stages of a run share.
        log: the file that the output of programs goes to.
        deadline: of time.monotonic() in this process: when the stage's time is over.
    """

    device: str
    rehearse: bool
    carried: Path | None
    scratch: Path
    log: Path
    deadline: float = field(default=float("inf"))

    @property
    def seconds_left(self) -> float:
        """Seconds until the stage's time is over."""
        return self.deadline - time.monotonic()

    def pick(self, real: Any, rehearsed: Any) -> Any:
        """Return the first on a GPU, the second in a rehearsal."""
        return rehearsed if self.rehearse else real

    def carried_file(self, *parts: str) -> Path:
        """Return a file or folder that was carried.

        Raises: NotHere when there is none.
        """
        path = (self.carried or Path("nowhere")).joinpath(*parts)
        if self.carried is None or not path.exists():
            raise NotHere(f"{'/'.join(parts)} was not carried; benchmarks/gpu/pack.sh gathers it")
        return path
