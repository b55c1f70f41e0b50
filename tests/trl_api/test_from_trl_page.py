"""docs/from-trl.md names every field: served, refused with its remedy, or without effect."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mathgrpo import GRPOConfig
from mathgrpo.trl_api.argument_fields import NO_EFFECT, NOT_SERVED

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "from-trl.md").read_text(encoding="utf-8")


def _section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_served_field_is_in_its_table() -> None:
    table = _section("Fields that are served")
    served = [field.name for field in dataclasses.fields(GRPOConfig) if field.name not in NO_EFFECT | NOT_SERVED]
    assert [name for name in served if f"`{name}`" not in table] == []


def test_every_refused_field_has_its_remedy() -> None:
    rows = [f"| `{name}` | `{default!r}` | {remedy} |" for name, (default, remedy) in NOT_SERVED.items()]
    lines = [line for line in _section("Fields that are not served").splitlines() if line.startswith("| `")]
    assert lines == rows


def test_every_field_without_effect_is_listed() -> None:
    listed = _section("Fields without effect").split("\n\n", 1)[1]
    assert sorted(listed.replace("`", "").rstrip(".\n").replace("\n", " ").split(", ")) == sorted(NO_EFFECT)
