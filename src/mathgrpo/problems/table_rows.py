"""One row of a table, and how names and values are shown in a complaint about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row as its source has it.

    Attributes:
        place: where it is ("line 3" of a JSONL file, "row 3" of a table), counted from 1.
        values: column name -> value.
    """

    place: str
    values: Mapping[str, Any]


def shown(value: object, limit: int = 80) -> str:
    """Return a value as one printable line in double quotes, cut to `limit` characters.

    Example:
        >>> shown("two\\nlines"), shown("a" * 100, limit=3)
        ('"two\\\\nlines"', '"aaa…"')
    """
    text = str(value)
    clipped = text if len(text) <= limit else text[:limit] + "…"
    return json.dumps(clipped, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Return names as a list for a message, the first `limit` of them."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
