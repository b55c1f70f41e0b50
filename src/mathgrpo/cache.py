"""Where things are kept that are slow to make and safe to delete."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder: $MATHGRPO_CACHE, else mathgrpo below $XDG_CACHE_HOME or ~/.cache. It may not exist yet."""
    chosen = os.environ.get("MATHGRPO_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mathgrpo"
