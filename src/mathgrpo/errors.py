"""The one exception a user is meant to see, and the words its messages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_NAMES: ContextVar[Mapping[str, str]] = ContextVar("names of settings")


class UserError(Exception):
    """Bad input, said in one line: field=value, what is wrong, what is allowed, the remedy.

    The command line prints the message without a traceback and exits with code 2.

    Example:
        >>> raise UserError("rollout.group_size=1: every advantage would be 0; use 2 or more")
        Traceback (most recent call last):
        ...
        mathgrpo.errors.UserError: rollout.group_size=1: every advantage would be 0; use 2 or more
    """


def named(setting: str, value: str = "") -> str:
    """Return what the caller calls a recipe's setting, for the text of an error; the recipe's name is the default.

    value: "name=value" then; the caller may have words of its own for just this value.

    Example:
        >>> with naming({"optimizer.learning_rate": "learning_rate", "rollout.vllm=none": "use_vllm=False"}):
        ...     named("optimizer.learning_rate"), named("grpo.beta", "0.1"), named("rollout.vllm", "none")
        ('learning_rate', 'grpo.beta=0.1', 'use_vllm=False')
    """
    names = _NAMES.get({})
    pair = f"{setting}={value}"
    if value and pair in names:
        return names[pair]
    return names.get(setting, setting) + (f"={value}" if value else "")


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Let `named` speak of settings by these names inside the block."""
    token = _NAMES.set(names)
    try:
        yield
    finally:
        _NAMES.reset(token)


def first_line(error: BaseException, limit: int = 200) -> str:
    """Return the first line of an error's message that holds anything, cut when long; without one, the error's class.

    Example:
        >>> first_line(ValueError("bad header\\nat byte 7")), first_line(KeyError())
        ('bad header', 'KeyError')
    """
    lines = (line.strip() for line in str(error).splitlines())
    text = next(filter(None, lines), type(error).__name__)
    return text if len(text) <= limit else text[:limit] + "…"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return '; did you mean "question"?' for the nearest of the names, blind to case, or "" when none is near."""
    import difflib
    import json

    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; did you mean {json.dumps(by_lower[near[0]], ensure_ascii=False)}?" if near else ""
