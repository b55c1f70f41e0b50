"""Engines that run outside the policy's own memory: what a run must tell them besides `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from mathgrpo.rollout.engine import Engine


@runtime_checkable
class OutsideEngine(Protocol):
    """What such an engine has more than an `Engine`.

    Attributes:
        metrics: of its last generate call, by name.
    """

    metrics: dict[str, float]

    def make_room(self) -> None:
        """Give the device's memory back until the next rollout, where that is asked for."""
        ...

    def keep_log(self, path: Path) -> None:
        """Write its log to this file from now on."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


def make_room(engine: Engine) -> None:
    """Let an engine outside give the device's memory back until the next rollout."""
    if isinstance(engine, OutsideEngine):
        engine.make_room()


def keep_log(engine: Engine, folder: Path) -> None:
    """Let an engine outside log into a run folder, as NAME.log."""
    if isinstance(engine, OutsideEngine):
        engine.keep_log(folder / f"{engine.name}.log")


def close_engine(engine: Engine) -> None:
    """End an engine outside; the others have nothing to end."""
    if isinstance(engine, OutsideEngine):
        engine.close()


def engine_metrics(engine: Engine) -> dict[str, float]:
    """Return what an engine outside measured in its last rollout, {} for the others."""
    return dict(engine.metrics) if isinstance(engine, OutsideEngine) else {}
