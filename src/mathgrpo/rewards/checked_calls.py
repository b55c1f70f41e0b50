"""Reward functions called, and what they return checked: whoever wrote them, one number or None a completion."""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mathgrpo.errors import UserError
from mathgrpo.formats import Format

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_FAULTS = (Exception, SystemExit)
"""What a function may raise and is told of: sys.exit() in it must not end the run in silence."""


def call_rewards(
    functions: Mapping[str, RewardFunction], texts: Sequence[str], call: Mapping[str, Any]
) -> dict[str, list[float | None]]:
    """Return every reward's values, checked: one finite number or None per completion.

    Plain functions run one after another; those that return an awaitable are then waited for together.

    Args:
        texts: the completions, to show the one at fault.
        call: keyword arguments, sequences as long as `texts` among them. A function without **columns gets those it
            names.

    Raises:
        UserError: a function raises, or returns anything else.
    """
    outcomes = {name: outcome_of(function, call) for name, function in functions.items()}
    waiting = {name: values for name, values in outcomes.items() if inspect.isawaitable(values)}
    if waiting:
        outcomes |= dict(zip(waiting, awaited(list(waiting.values())), strict=True))
    return {name: _values(name, functions[name], outcome, texts, call) for name, outcome in outcomes.items()}


def outcome_of(function: RewardFunction, call: Mapping[str, Any]) -> Any:
    """Return what a function returns, or the exception that it raises; what it does to its lists no other sees."""
    try:
        return function(**_copied({name: value for name, value in call.items() if _takes(function, name, value)}))
    except _FAULTS as error:
        return error


def _takes(function: RewardFunction, name: str, value: Any) -> bool:
    """Return whether a function has a parameter of this name, or **columns; those of builtins are not known.

    What there is none of (None) only a function that cannot do without gets.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return value is not None
    if value is None:
        return name in parameters and parameters[name].default is inspect.Parameter.empty
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


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
        from mathgrpo.rewards.call_faults import fault

        raise UserError(f'rewards."{name}": {fault(function, outcome, texts, call)}') from outcome
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


def awaited(awaitables: Sequence[Awaitable[Any]]) -> list[Any]:
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


def _checked(name: str, value: Any, text: str) -> float | None:
    if value is None:
        return None
    number = _as_float(value)
    if number is not None and math.isfinite(number):
        return number + 0.0  # -0.0 is 0.0
    from mathgrpo.rewards.call_faults import shown, written

    what = f"{type(value).__name__} {written(value)}" if number is None else str(number)
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


Completions = Sequence[Any]
"""Conversational completions, [[{"role": "assistant", "content": text}], ...]; TRL passes texts for plain prompts."""

RewardFunction = Callable[..., Any]
"""f(prompts, completions, **columns) -> one number or None (does not apply) per completion; may be async.

Called with keywords, as TRL does. Columns are sequences as long as the completions: every column of the problem set,
"answer" (the gold) and "question" always. Beside them come response_format, the run's `Format`, and max_new_tokens,
completion_ids and trainer_state where there are any, else None if the function has no default for them. Take
`**columns` for those that are not used.
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
