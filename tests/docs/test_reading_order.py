"""CONTRIBUTING's reading order is the path that runs: traced, with both engines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mathgrpo"
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition('With `"fast"`')[0]
ORDER = re.findall(r"`([a-z_/]+\.py)`", TEXT)

MOST_FILES, MOST_LINES = 35, 4500
"""What a default step may run through, its speed measured after it aside."""


@pytest.fixture(scope="module")
def steps() -> dict[str, Any]:
    """Return what a step runs through, by engine."""
    command = [sys.executable, str(Path(__file__).with_name("step_trace.py"))]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.usefixtures("generator")
def test_the_order_is_what_a_plain_step_runs(steps: dict[str, Any]) -> None:
    assert sorted(ORDER) == sorted(steps["plain"]["files"])


@pytest.mark.usefixtures("generator")
def test_a_default_step_is_read_in_an_afternoon(steps: dict[str, Any]) -> None:
    files = steps["fast"]["files"]
    assert len(files) <= MOST_FILES and sum(files.values()) <= MOST_LINES, files


def test_the_order_is_as_long_as_it_says() -> None:
    assert len(ORDER) == len(set(ORDER))
    lines = sum(len((PACKAGE / name).read_text("utf-8").splitlines()) for name in ORDER)
    assert f"{len(ORDER)} files, about {round(lines, -2):,} lines" in " ".join(TEXT.split())
