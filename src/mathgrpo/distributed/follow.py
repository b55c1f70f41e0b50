"""Failures that begin in another process."""

from __future__ import annotations


class PeerLost(RuntimeError):
    """A collective operation failed, most likely because another process has ended."""


class FollowMain(RuntimeError):
    """All processes fail alike; the main one says how, when it has saved what there is to save."""
