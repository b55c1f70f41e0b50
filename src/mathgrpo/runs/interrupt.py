"""Ctrl-C and SIGTERM as a question the loop asks when it is ready to hear it."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from mathgrpo.distributed import SINGLE, World

SHOW_CURSOR = b"\x1b[?25h"
"""The live display hides the terminal's cursor."""


class Interrupted(Exception):
    """A run that was asked to stop and did so cleanly.

    Attributes:
        exit_code: 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


class StopWanted(Exception):
    """Somebody was asked to stop: leave what can be left, and come to `Run.stop_if_asked`."""


class StopRequests:
    """Catches SIGINT and SIGTERM while it is entered.

    The first is kept for whoever asks, the second ends the process at once. Several processes stop together, at the
    same `Run.stop_if_asked`, whichever of them was asked.

    Outside the main thread, where Python allows no handlers, nothing is caught.

    Attributes:
        received: the number of the signal that has come, 0 before.
    """

    def __init__(self, world: World = SINGLE) -> None:
        self.received, self._world = 0, world
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        for signum in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[signum] = signal.signal(signum, self._receive)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def heed(self) -> None:
        """Raise StopWanted if anybody was asked to stop, as far as this process knows; the others learn of it."""
        if self.received:
            self._world.ask_to_stop()
        if self.received or self._world.stop_is_wanted():
            raise StopWanted

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        # os.write, because a handler may have interrupted a print half-way.
        if self.received:
            os.write(2, SHOW_CURSOR if os.isatty(2) else b"")
            os._exit(128 + signum)
        self.received = signum
        if self._world.is_main:
            os.write(2, b"\nstopping cleanly, this can take one step; once more leaves at once\n")
