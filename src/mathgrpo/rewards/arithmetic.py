"""Exact arithmetic on untrusted text: + - * / and brackets over fractions, without eval, bounded in size.

No powers: "9**9**9" would hang. Time is linear in the length of the text; what is too long or too deep is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 300
MAX_DIGITS = 15
MAX_DEPTH = 20

_TOKEN = re.compile(
    r"[ \t]*(?:[$£€]?(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?P<percent>[ ]?%)?"
    r"|(?P<mark>[-+*/()]))",
    re.ASCII,
)
_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-"})


@dataclass(frozen=True, slots=True)
class Expression:
    """An arithmetic expression, evaluated.

    Attributes:
        value: exactly.
        numbers: the numbers written in it, in order; for "20%" it is 1/5.
        operations: how many + - * / it has; 0 for a number alone. A sign before a number is none.
        signed: it has such a sign.
    """

    value: Fraction
    numbers: tuple[Fraction, ...]
    operations: int
    signed: bool = False


def evaluate(text: str) -> Expression | None:
    """Return the expression a text is, None if it is anything else, too long, or divides by zero.

    Example:
        >>> evaluate("(3 + 5) × 2 / 4").value, evaluate("9**9**9"), evaluate("1 / 0"), evaluate("3 5")
        (Fraction(4, 1), None, None, None)
    """
    if len(text) > MAX_CHARS:
        return None
    tokens = _tokens(text.translate(_SIGNS))
    if not tokens:
        return None
    parser = _Parser(tokens)
    try:
        value = parser.total(0)
    except (_Unreadable, ZeroDivisionError):
        return None
    if parser.place != len(tokens):
        return None
    numbers = tuple(token for token in tokens if isinstance(token, Fraction))
    return Expression(value, numbers, parser.operations, parser.signed)


class _Unreadable(Exception):
    pass


def _tokens(text: str) -> list[Fraction | str] | None:
    """Return numbers and marks in order, None where anything else stands."""
    tokens: list[Fraction | str] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        place = match.end()
        if match["mark"]:
            tokens.append(match["mark"])
            continue
        digits = match["number"].replace(",", "")
        if len(digits) > MAX_DIGITS:
            return None
        tokens.append(Fraction(digits) / (100 if match["percent"] else 1))
    return tokens


class _Parser:
    """Recursive descent: a total of products of factors."""

    def __init__(self, tokens: list[Fraction | str]) -> None:
        self.tokens = tokens
        self.place = 0
        self.operations = 0
        self.signed = False

    def total(self, depth: int) -> Fraction:
        value = self._product(depth)
        while (mark := self._next()) in ("+", "-"):
            self._take_operation()
            other = self._product(depth)
            value = value + other if mark == "+" else value - other
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while (mark := self._next()) in ("*", "/"):
            self._take_operation()
            other = self._factor(depth)
            value = value * other if mark == "*" else value / other
        return value

    def _factor(self, depth: int) -> Fraction:
        token = self._next()
        if depth > MAX_DEPTH or token is None:
            raise _Unreadable
        self.place += 1
        if isinstance(token, Fraction):
            return token
        if token == "(":
            value = self.total(depth + 1)
            if self._next() != ")":
                raise _Unreadable
            self.place += 1
            return value
        if token == "-" and isinstance(self._next(), Fraction):
            self.signed = True
            return -self._factor(depth + 1)
        raise _Unreadable

    def _next(self) -> Fraction | str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def _take_operation(self) -> None:
        self.place += 1
        self.operations += 1
