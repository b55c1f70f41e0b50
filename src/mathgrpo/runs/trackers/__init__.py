"""A run's metrics and completions in the experiment trackers a recipe names, beside the run folder."""

from __future__ import annotations

from mathgrpo.runs.trackers.all import Trackers, open_trackers, require_trackers

__all__ = ["Trackers", "open_trackers", "require_trackers"]
