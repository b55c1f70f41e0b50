"""docs/settings.md has every field of a recipe, once, with the default that the code gives it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from docs.recipe_settings import SETTINGS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \|([^|]*)\|$", PAGE, re.MULTILINE)


def value_of(cell: str) -> Any:
    """Return the default that a cell states, read as TOML; None for a section that is off."""
    return None if cell == "none" else tomllib.loads(f"value = {cell.strip('`')}")["value"]


def test_every_setting_is_on_the_page_once_and_nothing_else() -> None:
    named = [name for name, *_ in ROWS]
    assert sorted(named) == sorted(SETTINGS)


@pytest.mark.parametrize(("name", "default", "purpose"), [row[:3] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_default_is_the_codes(name: str, default: str, purpose: str) -> None:
    expected = SETTINGS[name]
    assert value_of(default) == (list(expected) if isinstance(expected, tuple) else expected)
    assert len(purpose) >= 10, "a setting without a word on what it does"


def test_settings_that_change_learning_say_what_goes_wrong() -> None:
    silent = [name for name, _, _, wrong in ROWS if not wrong.strip()]
    learning = ("grpo.", "optimizer.learning", "optimizer.schedule", "rollout.group", "rollout.temp", "rewards")
    assert not [name for name in silent if name.startswith(learning)]
