"""Why a reward function failed, in a line that its author can act on."""

from __future__ import annotations

import inspect
import sysconfig
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mathgrpo.rewards.checked_calls import RewardFunction, awaited, outcome_of

SHOWN_CHARS = 120


SEARCH_S = 20.0
"""Seconds at most to find the completion on which a function raises: it is called with one after another."""


_LIBRARIES = tuple(
    f"{folder}/" for folder in (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), Path(__file__).parents[1])
)
"""Folders whose lines a user did not write."""


def fault(function: RewardFunction, error: BaseException, texts: Sequence[str], call: Mapping[str, Any]) -> str:
    """Return in words why a function raised, and what to do."""
    missing = _missing(function, call) if isinstance(error, TypeError) else []
    if missing:
        there = ", ".join(name for name, value in call.items() if value is not None)
        return f"needs {', '.join(missing)}, which is not there; there are: {there}"
    return f"raised {describe(error)}{_first_raising(function, texts, call)}; return None where it does not apply"


def _missing(function: RewardFunction, call: Mapping[str, Any]) -> list[str]:
    """Return the parameters that a function needs and this call does not give."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins have none
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [name for name, each in parameters.items() if each.default is each.empty and each.kind not in variable]
    return [name for name in needed if name not in call]


def _first_raising(function: RewardFunction, texts: Sequence[str], call: Mapping[str, Any]) -> str:
    """Return in words the first completion on which the function raises by itself; "" if none is found in time."""
    begun = time.monotonic()
    for index, text in enumerate(texts):
        if time.monotonic() - begun > SEARCH_S:
            break
        one = {key: [value[index]] if _is_column(value, len(texts)) else value for key, value in call.items()}
        outcome = outcome_of(function, one)
        if inspect.isawaitable(outcome):
            (outcome,) = awaited([outcome])
        if isinstance(outcome, BaseException):
            return f" on the completion {shown(text)}"
    return ""


def _is_column(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def written(value: Any) -> str:
    try:
        return shown(str(value))
    except Exception:  # an integer too long for str(), or an object of the user's
        return "(too large to show)"


def describe(error: BaseException) -> str:
    """Return an exception in one line, with the line of the user's own that it arose in, if there is one."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""
    said = str(error)
    return f"{type(error).__name__}{': ' if said else ''}{shown(said, quote=False)}{place}"


def _is_users(file: str) -> bool:
    return not file.startswith(("<frozen", *_LIBRARIES))


def shown(text: str, *, quote: bool = True) -> str:
    """Return a text cut to a readable length, on one line, control characters escaped."""
    middle = f" …[{len(text)} characters]… "
    short = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS // 2] + middle + text[-SHOWN_CHARS // 2 :]
    escaped = repr(short)
    return escaped if quote else escaped[1:-1]
