"""What one cell says: a column, a part of one, or a text of several, as stripped text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_ROLES = ("role", "from")
_SAYS = ("content", "value")
_ASKS, _REPLIES = {"user", "human", "prompter"}, {"assistant", "gpt", "model"}
_SPEAKERS = _ASKS | _REPLIES | {"system", "developer", "tool"}
_PLACE = re.compile(r"\{([^{}]+)\}")
_EDGE = "\ufeff\u200b\u200c\u200d\u2060"
"""Marks without width, which no one sees at the ends of a cell."""


class Missing(LookupError):
    """There is no such column in a row."""


def cell(values: Mapping[str, Any], name: str) -> Any:
    """Return a row's value by its column's name, or by that of a part of it: "reward_model.ground_truth", "1.value".

    A column with just this name comes first. A part of a text is looked for in the JSON that the text holds.

    Raises: Missing.

    Example:
        >>> cell({"reward_model": {"ground_truth": "4"}}, "reward_model.ground_truth")
        '4'
    """
    if name in values:
        return values[name]
    here: Any = values
    for part in name.split("."):
        if isinstance(here, str) and here.lstrip()[:1] in ("{", "["):
            here = loaded(here)
        if isinstance(here, Mapping) and part in here:
            here = here[part]
        elif isinstance(here, list | tuple) and part.isdecimal() and int(part) < len(here):
            here = here[int(part)]
        else:
            raise Missing(name)
    return here


def columns_in(name: str) -> list[str]:
    """Return the columns that a setting names: itself, or those in the braces of a text of several.

    Example:
        >>> columns_in("{Body} {Question}"), columns_in("problem")
        (['Body', 'Question'], ['problem'])
    """
    return _PLACE.findall(name) or [name]


def question_text(values: Mapping[str, Any], name: str) -> str:
    """Return a question: a cell, the last user turn of a conversation, or a text with cells in its braces.

    Raises: Missing; ValueError in words when a cell holds no text.
    """
    if not _PLACE.search(name) or name in values:
        return _text(cell(values, name), _ASKS)
    for column in columns_in(name):
        cell(values, column)
    return _PLACE.sub(lambda found: _inserted(cell(values, found[1])), name).strip()


def answer_text(values: Mapping[str, Any], name: str) -> str:
    """Return an answer or a solution: a cell, the last assistant turn of a conversation, or a list's elements.

    Raises: Missing; ValueError in words when a cell holds no text.
    """
    value = cell(values, name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.strip()[:2] == '["':
        value = loaded(value) or value
    if isinstance(value, list | tuple) and not is_conversation(value):
        golds = [_without_dollars(_text(each, _REPLIES)) for each in value if each is not None]
        return ", ".join(filter(None, golds))
    return _text(value, _REPLIES)


def is_conversation(value: Any) -> bool:
    """Return whether a value is the turns of a conversation, each with a role and what was said."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(turn, Mapping) and _role(turn) in _SPEAKERS for turn in value)
    )


def _role(turn: Mapping[str, Any]) -> str:
    return next((str(turn[name]).lower() for name in _ROLES if name in turn), "")


def _text(value: Any, speakers: set[str]) -> str:
    """Return a cell as text, of a conversation the last turn of these speakers; "" for what tables write for nothing.

    Raises: ValueError in words.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        return str(value).strip().strip(_EDGE).strip()
    if is_conversation(value):
        return _said(value, speakers)
    if isinstance(value, list | tuple) and len(value) == 1:
        return _text(value[0], speakers)
    if isinstance(value, Mapping):
        raise ValueError(f"a table of {', '.join(map(str, value))} in")
    raise ValueError(f"a {type(value).__name__} in")


def _said(turns: Any, speakers: set[str]) -> str:
    """Return the last turn of the speakers; parts of text are joined."""
    for turn in reversed(turns):
        said = next((turn[name] for name in _SAYS if turn.get(name) is not None), "")
        if _role(turn) in speakers:
            if isinstance(said, list | tuple):
                said = "\n".join(str(part.get("text", "")) for part in said if isinstance(part, Mapping))
            return _text(said, speakers)
    raise ValueError(f"no turn of {' or '.join(sorted(speakers))} in the conversation of")


def _inserted(value: Any) -> str:
    """Return a cell as it stands in a text of several: a list in brackets."""
    if isinstance(value, list | tuple) and not is_conversation(value):
        return "[" + ", ".join(_text(each, _ASKS) for each in value) + "]"
    return _text(value, _ASKS)


def _number(value: float) -> str:
    """Return a float without exponent and needless zeros.

    Raises: ValueError for an infinite one.
    """
    if math.isinf(value):
        raise ValueError("an infinite number in")
    return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")


def loaded(text: str) -> Any:
    """Return the JSON value of a text, None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _without_dollars(text: str) -> str:
    inner = text[1:-1] if len(text) > 2 and text[0] == text[-1] == "$" else text
    return text if "$" in inner else inner.strip()
