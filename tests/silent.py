"""A run's display that shows nothing."""

from __future__ import annotations

from mathgrpo.runs.progress import TextProgress


class Silent(TextProgress):
    """Says nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""
