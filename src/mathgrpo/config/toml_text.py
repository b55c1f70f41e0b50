"""A recipe as TOML text that loads back to the same recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def recipe_to_toml(recipe: BaseModel) -> str:
    """Return a recipe of any kind as TOML, every field written out; fields that are None are left out."""
    blocks = _blocks(recipe.model_dump(exclude_none=True), "")
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _blocks(table: Mapping[str, Any], path: str, header: str = "") -> list[list[str]]:
    """Return a table and the tables in it, each as lines under its header. Values go before the inner tables."""
    plain = [f"{_key(name)} = {_value(value)}" for name, value in table.items() if not _is_table(value)]
    blocks = [[header, *plain] if header else plain]
    for name, value in table.items():
        inner = f"{path}.{_key(name)}" if path else _key(name)
        if isinstance(value, Mapping):
            blocks.extend(_blocks(value, inner, f"[{inner}]"))
        elif _is_table(value):
            for entry in value:
                blocks.extend(_blocks(entry, inner, f"[[{inner}]]"))
    return blocks


def _is_table(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _value(value: object) -> str:
    """Return one value in TOML syntax.

    Example:
        >>> _value(("a", 1, 0.5, True))
        '["a", 1, 0.5, true]'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """Return a TOML basic string. JSON escapes the same characters, all but DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
