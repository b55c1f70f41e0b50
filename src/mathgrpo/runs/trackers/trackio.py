"""trackio: a local SQLite file, no account; look at it with: trackio show --project PROJECT."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mathgrpo.runs.trackers.tracker import COLUMNS, TrackedRun


class TrackioTracker:
    """A run in trackio's local database ($TRACKIO_DIR).

    A resumed run is continued under its name; steps it takes again are in the database twice, later ones last.
    """

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        with _silence():
            self._run = trackio.init(
                project=run.project,
                name=run.name,
                config=dict(run.config),
                resume="allow" if run.step else "never",
                embed=False,  # no dashboard in a notebook
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue a step's metrics; trackio writes in a thread of its own."""
        self._run.log(dict(metrics), step=step)

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Queue the completions as a table."""
        table = self._trackio.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"completions": table}, step=step)

    def close(self, status: str) -> None:
        """Write out what is queued."""
        del status  # trackio keeps no status that is ours to set
        with _silence():
            self._trackio.finish()


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Return the context in which trackio's greetings go nowhere: they would break the live display."""
    return contextlib.redirect_stdout(io.StringIO())
