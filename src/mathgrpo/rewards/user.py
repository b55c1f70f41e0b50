"""A user's own reward function: loaded from a local file, called, and its values checked."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
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


def call_rewards(
    functions: Mapping[str, RewardFunction], texts: Sequence[str], call: Mapping[str, Any]
) -> dict[str, list[float | None]]:
    """Return every reward's values, checked: one finite number or None per completion.

    Plain functions run one after another; those that return an awaitable are then waited for together.

    Args:
        texts: the completions, to show the one at fault.
        call: keyword arguments of the functions; sequences as long as `texts` go along.

    Raises:
        UserError: a function raises, or returns anything else.
    """
    outcomes = {name: _outcome(function, dict(call)) for name, function in functions.items()}
    waiting = {name: values for name, values in outcomes.items() if inspect.isawaitable(values)}
    if waiting:
        outcomes |= dict(zip(waiting, _awaited(list(waiting.values())), strict=True))
    return {name: _values(name, functions[name], outcome, texts, call) for name, outcome in outcomes.items()}


def _outcome(function: RewardFunction, call: dict[str, Any]) -> Any:
    """Return what a function returns, or the exception that it raises."""
    try:
        return function(**call)
    except Exception as error:  # a user's function may raise anything
        return error


def _values(
    name: str, function: RewardFunction, outcome: Any, texts: Sequence[str], call: Mapping[str, Any]
) -> list[float | None]:
    """Return an outcome as one number or None per completion."""
    if isinstance(outcome, Exception):
        culprit = _first_raising(function, texts, call)
        raise UserError(
            f'rewards."{name}": raised {describe(outcome)}{culprit}; return None where it does not apply'
        ) from outcome
    if isinstance(outcome, str | bytes | dict) or not hasattr(outcome, "__len__") or not hasattr(outcome, "__iter__"):
        kind = type(outcome).__name__
        raise UserError(f'rewards."{name}": returned {kind}; return a list, one number per completion')
    if len(outcome) != len(texts):
        raise UserError(
            f'rewards."{name}": returned {len(outcome)} values for {len(texts)} completions; return one for each'
        )
    return [_checked(name, value, text) for value, text in zip(outcome, texts, strict=True)]


def _awaited(awaitables: Sequence[Any]) -> list[Any]:
    """Return the results or exceptions of awaitables that run together, in order.

    In a thread of its own, because a notebook already runs a loop in this one.
    """
    import asyncio

    outcomes: list[Any] = []

    async def gather() -> list[Any]:
        return await asyncio.gather(*awaitables, return_exceptions=True)

    thread = threading.Thread(target=lambda: outcomes.extend(asyncio.run(gather())))
    thread.start()
    thread.join()
    return outcomes


def _run(function: RewardFunction, call: dict[str, Any]) -> Any:
    values = function(**call)
    if not inspect.isawaitable(values):
        return values
    (outcome,) = _awaited([values])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _first_raising(function: RewardFunction, texts: Sequence[str], call: Mapping[str, Any]) -> str:
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
