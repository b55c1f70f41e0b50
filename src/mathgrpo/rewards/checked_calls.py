"""Reward functions called, and what they return checked: whoever wrote them, one number or None a completion."""

from __future__ import annotations

import functools
import inspect
import math
import sysconfig
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mathgrpo.errors import UserError
from mathgrpo.formats import Format

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

SHOWN_CHARS = 120
SEARCH_S = 20.0
"""Seconds at most to find the completion on which a function raises: it is called with one after another."""
_FAULTS = (Exception, SystemExit)
"""What a function may raise and is told of: sys.exit() in it must not end the run in silence."""
_LIBRARIES = tuple(
    f"{folder}/" for folder in (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), Path(__file__).parents[1])
)
"""Folders whose lines a user did not write."""


def call_rewards(
    functions: Mapping[str, RewardFunction], texts: Sequence[str], call: Mapping[str, Any]
) -> dict[str, list[float | None]]:
    """Return every reward's values, checked: one finite number or None per completion.

    Plain functions run one after another; those that return an awaitable are then waited for together. Each gets lists
    of its own, so that what one does to them no other sees.

    Args:
        texts: the completions, to show the one at fault.
        call: keyword arguments of the functions; sequences as long as `texts` go along.

    Raises:
        UserError: a function raises, or returns anything else.
    """
    outcomes = {name: _outcome(function, _copied(call)) for name, function in functions.items()}
    waiting = {name: values for name, values in outcomes.items() if inspect.isawaitable(values)}
    if waiting:
        outcomes |= dict(zip(waiting, _awaited(list(waiting.values())), strict=True))
    return {name: _values(name, functions[name], outcome, texts, call) for name, outcome in outcomes.items()}


def _outcome(function: RewardFunction, call: dict[str, Any]) -> Any:
    """Return what a function returns, or the exception that it raises."""
    try:
        return function(**call)
    except _FAULTS as error:
        return error


def _copied(value: Any) -> Any:
    """Return lists and dicts, one in another, as new ones; everything else as it is."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value] if value and isinstance(value[0], list | dict) else list(value)
    return value


def _values(
    name: str, function: RewardFunction, outcome: Any, texts: Sequence[str], call: Mapping[str, Any]
) -> list[float | None]:
    """Return an outcome as one number or None per completion."""
    if isinstance(outcome, BaseException):
        raise UserError(f'rewards."{name}": {_fault(function, outcome, texts, call)}') from outcome
    values = _as_list(outcome)
    if values is None:
        kind = type(outcome).__name__
        raise UserError(f'rewards."{name}": returned {kind}; return a list, one number per completion')
    if len(values) != len(texts):
        raise UserError(
            f'rewards."{name}": returned {len(values)} values for {len(texts)} completions; return one for each'
        )
    return [_checked(name, value, text) for value, text in zip(values, texts, strict=True)]


def _as_list(outcome: Any) -> list[Any] | None:
    """Return a list, tuple, array or tensor as a list; None for what has no order or no length."""
    if isinstance(outcome, str | bytes | Mapping | set | frozenset) or not hasattr(outcome, "__len__"):
        return None
    try:
        return list(outcome)
    except TypeError:  # a tensor or array without dimensions has __len__, and raises
        return None


def _fault(function: RewardFunction, error: BaseException, texts: Sequence[str], call: Mapping[str, Any]) -> str:
    """Return in words why a function raised, and what to do."""
    if isinstance(error, TypeError):
        refused = _refused_call(function, call)
        if refused:
            return refused
    return f"raised {describe(error)}{_first_raising(function, texts, call)}; return None where it does not apply"


def _refused_call(function: RewardFunction, call: Mapping[str, Any]) -> str:
    """Return in words why a function cannot be called with these keywords, "" when it can."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # builtins have none
        return ""
    try:
        signature.bind(**call)
    except TypeError as error:
        needed = [
            key
            for key, parameter in signature.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and key not in call
        ]
        if needed:
            return f"needs {', '.join(needed)}, which is not there; there are: {', '.join(call)}"
        return f"cannot be called with the columns by name ({error}); end its parameters with **columns"
    return ""


def _awaited(awaitables: Sequence[Awaitable[Any]]) -> list[Any]:
    """Return the results or exceptions of awaitables that run together, in order."""
    import asyncio

    async def guarded(awaitable: Awaitable[Any]) -> Any:
        try:
            return await awaitable
        except (*_FAULTS, asyncio.CancelledError) as error:
            return error

    async def gather() -> list[Any]:
        return await asyncio.gather(*map(guarded, awaitables))

    return asyncio.run_coroutine_threadsafe(gather(), _loop()).result()


@functools.cache
def _loop() -> AbstractEventLoop:
    """Return the event loop of reward functions, in a thread of its own: a notebook already runs one in this one.

    It lives as long as the process, so a client that a function opens once (an HTTP session) stays usable.
    """
    import asyncio

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="mathgrpo-rewards", daemon=True).start()
    return loop


def _first_raising(function: RewardFunction, texts: Sequence[str], call: Mapping[str, Any]) -> str:
    """Return in words the first completion on which the function raises by itself; "" if none is found in time."""
    begun = time.monotonic()
    for index, text in enumerate(texts):
        if time.monotonic() - begun > SEARCH_S:
            break
        one = {key: [value[index]] if _is_column(value, len(texts)) else value for key, value in call.items()}
        outcome = _outcome(function, _copied(one))
        if inspect.isawaitable(outcome):
            (outcome,) = _awaited([outcome])
        if isinstance(outcome, BaseException):
            return f" on the completion {shown(text)}"
    return ""


def _is_column(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _checked(name: str, value: Any, text: str) -> float | None:
    if value is None:
        return None
    number = _as_float(value)
    if number is not None and math.isfinite(number):
        return number + 0.0  # -0.0 is 0.0
    what = f"{type(value).__name__} {_written(value)}" if number is None else str(number)
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


def _written(value: Any) -> str:
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


Completions = Sequence[Any]
"""Conversational completions, [[{"role": "assistant", "content": text}], ...]; TRL passes texts for plain prompts."""

RewardFunction = Callable[..., Any]
"""f(prompts, completions, **columns) -> one number or None (does not apply) per completion; may be async.

Called with keywords, as TRL does. Columns are sequences as long as the completions: every column of the problem set,
"answer" (the gold) and "question" always. Beside them come response_format, the run's `Format`, and max_new_tokens,
completion_ids and trainer_state where there are any. Take `**columns` for those that are not used.
"""


def conversational(texts: Sequence[str]) -> list[list[dict[str, str]]]:
    """Return texts as conversational completions."""
    return [[{"role": "assistant", "content": text}] for text in texts]


def completion_texts(completions: Completions) -> list[str]:
    """Return the texts of conversational or plain completions."""
    return [each if isinstance(each, str) else str(each[0]["content"]) for each in completions]


def bound(reward: RewardFunction, fmt: Format, **fixed: Any) -> RewardFunction:
    """Return the reward with its response format fixed and its name kept, to hand to another trainer.

    Args:
        fixed: further keyword arguments to fix, such as settings or max_new_tokens.

    Example:
        >>> from mathgrpo.formats import get_format
        >>> from mathgrpo.rewards import REWARDS
        >>> bound(REWARDS["correct"], get_format("boxed"))(prompts=["?"], completions=["so \\\\boxed{4}"], answer=["4"])
        [1.0]
    """
    return with_keywords(reward, response_format=fmt, **fixed)


def with_keywords(function: RewardFunction, **fixed: Any) -> RewardFunction:
    """Return the function with these keywords fixed, whatever it is called with; its name kept."""

    @functools.wraps(function)
    def fixed_function(**columns: Any) -> Any:
        return function(**{**columns, **fixed})

    with suppress(TypeError, ValueError):  # a builtin has no signature
        own = inspect.signature(function)
        left = [parameter for key, parameter in own.parameters.items() if key not in fixed]
        fixed_function.__signature__ = own.replace(parameters=left)  # type: ignore[attr-defined]
    return fixed_function
