"""The interval that an inequality in one variable says: -2 <= x < 7, x > 3, 0 > t."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

SIGNS = re.compile(r"\\(?:le|ge|ne|in|equiv|approx|sim|cong|to)(?![a-zA-Z])|<=|>=|!=|[=<>]")
SIGN_NAMES = {"<=": "le", ">=": "ge", "!=": "ne"}
"""What is written without a backslash -> the LaTeX word."""
VARIABLE = re.compile(r"[A-Za-z]|\\(?:theta|alpha|beta|lambda|phi|omega|mu)|[A-Za-z]_\{?[A-Za-z0-9]\}?", re.ASCII)

_TURNED = {">": "<", "ge": "le"}


class Interval(NamedTuple):
    """Two ends, two brackets and the variable that lies between."""

    ends: tuple[str, str]
    brackets: str
    variable: str


def interval_of(sides: Sequence[str], signs: Sequence[str]) -> Interval | None:
    """Return an inequality as an interval, None when its variable does not stand alone between or beside numbers.

    Example:
        >>> interval_of(["3", "x"], ["<"])
        Interval(ends=('3', '\\\\infty'), brackets='()', variable='x')
    """
    if all(sign in _TURNED for sign in signs):
        sides, signs = sides[::-1], [_TURNED[sign] for sign in reversed(signs)]
    if any(sign not in ("<", "le") for sign in signs):
        return None
    if len(sides) == 2:
        above = VARIABLE.fullmatch(sides[1]) is not None
        sides = [*sides, "\\infty"] if above else ["-\\infty", *sides]
        signs = [*signs, "<"] if above else ["<", *signs]
    if len(sides) != 3 or not VARIABLE.fullmatch(sides[1]):
        return None
    low, variable, high = sides
    if re.search(rf"(?<![A-Za-z\\]){re.escape(variable)}(?![A-Za-z])", f"{low} {high}"):
        return None
    return Interval((low, high), ("[" if signs[0] == "le" else "(") + ("]" if signs[1] == "le" else ")"), variable)
