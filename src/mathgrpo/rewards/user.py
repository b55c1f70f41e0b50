"""A user's own reward function: loaded from a local file, called, and its values checked."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mathgrpo.errors import UserError
from mathgrpo.rewards.signature import RewardFunction

SHOWN_CHARS = 120


def load_reward(name: str) -> RewardFunction:
    """Return the function that "file.py:function" names.

    Raises:
        UserError: no such file or function, or the file does not load.
    """
    file, _, function_name = name.rpartition(":")
    path = Path(file).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f'rewards."{name}": no such file {file}; write it as path/to/file.py:function, a local path')
    module = _load_module(name, path)
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        known = ", ".join(functions) or "none"
        raise UserError(f'rewards."{name}": {path.name} has no function "{function_name}"; its functions: {known}')
    return function  # type: ignore[no-any-return]


def _load_module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mathgrpo_reward_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        raise UserError(f'rewards."{name}": {path.name} does not load: {describe(error)}') from error
    return module


def call_reward(name: str, function: RewardFunction, texts: Sequence[str], call: dict[str, Any]) -> list[float | None]:
    """Return a reward's values, checked: one finite number or None per completion.

    Args:
        texts: the completions, to show the one at fault.
        call: keyword arguments of the function; sequences as long as `texts` go along.

    Raises:
        UserError: the function raises, or returns anything else.
    """
    try:
        values = _run(function, call)
    except Exception as error:  # a user's function may raise anything
        culprit = _first_raising(function, texts, call)
        raise UserError(
            f'rewards."{name}": raised {describe(error)}{culprit}; return None where it does not apply'
        ) from error
    if isinstance(values, str | bytes | dict) or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
        raise UserError(f'rewards."{name}": returned {type(values).__name__}; return a list, one number per completion')
    if len(values) != len(texts):
        raise UserError(
            f'rewards."{name}": returned {len(values)} values for {len(texts)} completions; return one for each'
        )
    return [_checked(name, value, text) for value, text in zip(values, texts, strict=True)]


def _run(function: RewardFunction, call: dict[str, Any]) -> Any:
    values = function(**call)
    return _awaited(values) if inspect.isawaitable(values) else values


def _awaited(awaitable: Any) -> Any:
    """Return an awaitable's result; in a thread of its own, because a notebook already runs a loop in this one."""
    import asyncio

    outcome: list[Any] = []

    async def wait() -> Any:
        return await awaitable

    def run() -> None:
        try:
            outcome.append((asyncio.run(wait()), None))
        except Exception as error:  # handed to the caller below
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _first_raising(function: RewardFunction, texts: Sequence[str], call: dict[str, Any]) -> str:
    """Return in words the first completion on which the function raises by itself; "" if none does."""
    for index, text in enumerate(texts):
        one = {key: [value[index]] if _is_column(value, len(texts)) else value for key, value in call.items()}
        try:
            _run(function, one)
        except Exception:  # found it; the first error is the one that is told
            return f" on the completion {shown(text)}"
    return ""


def _is_column(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _checked(name: str, value: Any, text: str) -> float | None:
    if value is None:
        return None
    number = _as_float(value)
    if number is not None and math.isfinite(number):
        return number
    what = f"{type(value).__name__} {shown(str(value))}" if number is None else str(number)
    raise UserError(
        f'rewards."{name}": returned {what} for the completion {shown(text)}; '
        "return a finite number, or None where it does not apply"
    )


def _as_float(value: Any) -> float | None:
    """Return a Python, NumPy or 0-d tensor number as float; None for anything else."""
    convert: Callable[[], Any] | None = getattr(value, "__float__", None)
    if convert is None or isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def describe(error: BaseException) -> str:
    """Return an exception in one line, with the place in the user's file where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {shown(str(error), quote=False)}{place}"


def shown(text: str, *, quote: bool = True) -> str:
    """Return a text cut to a readable length, on one line, control characters escaped."""
    middle = f" …[{len(text)} characters]… "
    short = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS // 2] + middle + text[-SHOWN_CHARS // 2 :]
    escaped = repr(short)
    return escaped if quote else escaped[1:-1]


def unknown_reward(name: str, known: Sequence[str]) -> UserError:
    """Return the error for a reward name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ";"
    return UserError(f'rewards.{name}: no such reward{hint} known: {", ".join(known)}, or "file.py:function"')
