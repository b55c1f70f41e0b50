"""Where things are kept that are slow to make and safe to delete."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from mathgrpo.errors import UserError
from mathgrpo.files import write_atomically

T = TypeVar("T")


def cache_folder() -> Path:
    """Return the folder: $MATHGRPO_CACHE, else mathgrpo below $XDG_CACHE_HOME or ~/.cache. It may not exist yet."""
    chosen = os.environ.get("MATHGRPO_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mathgrpo"


def machine_file(kind: str, machine: str) -> Path:
    """Return the file of what was measured on a machine, which a name in words tells from others.

    Example:
        >>> machine_file("roofline", "AMD EPYC, 2 threads").name
        'amd-epyc-2-threads.json'
    """
    return cache_folder() / kind / (re.sub(r"[^\w.-]+", "-", machine).strip("-").lower() + ".json")


def keep(path: Path, text: str) -> None:
    """Write a file of the cache, whole or not at all. Where it cannot be written, what it holds is made again."""
    with suppress(UserError):
        write_atomically(path, text)


def kept(path: Path, kind: type[T]) -> T | None:
    """Return what a file of the cache holds, None where it is missing, damaged or not of that kind."""
    from pydantic import TypeAdapter

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
