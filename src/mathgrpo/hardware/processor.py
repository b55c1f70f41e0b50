"""The processor and the compiler for it, as the system names them: nothing is measured, and torch is not needed."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path


def cpu_facts() -> dict[str, str]:
    """Return what the system says of its first processor, name -> value; nothing where it says nothing."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    return facts


def cpu_name() -> str:
    """Return the processor's model name, or at least its architecture."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def c_compiler() -> str:
    """Return the command of the C compiler that is there, $CC and nothing else where it is set; "" without one."""
    wanted = os.environ.get("CC", "")
    names = (wanted,) if wanted else ("cc", "gcc", "clang")
    return next((name for name in names if name.split() and shutil.which(name.split()[0])), "")


def no_compiler() -> str:
    """Return what is missing where `c_compiler` finds none."""
    wanted = os.environ.get("CC", "")
    return f"no C compiler ({'CC=' + wanted if wanted else 'cc, gcc or clang'})"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return Python's version and those of the packages that are installed. Nothing is imported."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):  # not there, or run from a checkout that is not installed
            found[name] = metadata.version(name)
    return found
