"""What a run asks of a tracker, and what a tracker is told of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

COLUMNS = ("step", "question", "gold", "completion", "verdict", "reward", "advantage", "tokens")
"""Columns of the completions table."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told of a run when it opens.

    Attributes:
        project: the tracker's project.
        folder: the run folder; its name is the run's.
        started: when the run first started; the same after a resume.
        config: the resolved recipe as JSON data.
        step: steps done already; more than 0 means that the run is resumed.
    """

    project: str
    folder: Path
    started: str
    config: Mapping[str, Any]
    step: int

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.resolve().name

    @property
    def id(self) -> str:
        """A name no other run has, the same after a resume."""
        return hashlib.sha256(f"{self.name} {self.started}".encode()).hexdigest()[:16]


class Tracker(Protocol):
    """Takes one run's metrics. Any exception it raises ends the tracking, never the run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take a step's metrics."""
        ...

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Take a step's completions, one row of COLUMNS each. Model text is untrusted."""
        ...

    def close(self, status: str) -> None:
        """Write out what is left; status: how the run ended."""
        ...


def table_rows(lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return lines of rollouts.jsonl as rows of COLUMNS, one a completion."""
    return [
        [
            line["step"], line["question"], line["gold"], completion["text"], completion["verdict"],
            completion["reward"], completion["advantage"], completion["tokens"],
        ]
        for line in lines
        for completion in line["completions"]
    ]  # fmt: skip
