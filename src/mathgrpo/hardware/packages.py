"""Which versions are installed here."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return Python's version and those of the packages that are installed. Nothing is imported."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # not there, or run from a checkout that is not installed
            continue
    return found
