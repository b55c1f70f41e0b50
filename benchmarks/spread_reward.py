"""A reward that always differs within a group, for rows whose text means nothing (random weights, forced length)."""

from __future__ import annotations

import zlib
from typing import Any


def spread(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Return a checksum of each completion's text as a number from 0 to 1. It can be gamed by luck alone."""
    return [zlib.crc32(_text(completion).encode()) / 2**32 for completion in completions]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
