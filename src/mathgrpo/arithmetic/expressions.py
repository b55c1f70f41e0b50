"""Exact arithmetic on untrusted text: + - * / and brackets over fractions, without eval, bounded in size.

No powers: "9**9**9" would hang. Time is linear in the length of the text; what is too long or too deep is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mathgrpo.arithmetic.number_grammar import CURRENCY, NUMBER, digits_value, number_text

MAX_CHARS = 300
MAX_DIGITS = 15
MAX_DEPTH = 20

_TOKEN = re.compile(
    rf"[ \t]*(?:[{''.join(CURRENCY)}]?(?P<number>{NUMBER})(?P<percent>[ ]?%)?|(?P<mark>[-+*/()]))", re.ASCII
)
_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-"})


@dataclass(frozen=True, slots=True)
class Operation:
    """Two numbers and what is done with them.

    Example:
        >>> str(Operation(Fraction(9), "*", Fraction(10)))
        '9*10=90'
    """

    left: Fraction
    sign: str
    right: Fraction

    @property
    def result(self) -> Fraction:
        """The exact value. Raises ZeroDivisionError for a division by 0."""
        if self.sign == "+":
            return self.left + self.right
        if self.sign == "-":
            return self.left - self.right
        return self.left * self.right if self.sign == "*" else self.left / self.right

    def __str__(self) -> str:
        return f"{number_text(self.left)}{self.sign}{number_text(self.right)}={number_text(self.result)}"


@dataclass(frozen=True, slots=True)
class Expression:
    """An arithmetic expression, evaluated.

    Attributes:
        value: exactly.
        numbers: the numbers written in it, in order; for "20%" it is 1/5.
        operations: its + - * / in the order in which they were done; none for a number alone.
        signed: it has a sign before a number, which is no operation.
        bracketed: it has brackets.
    """

    value: Fraction
    numbers: tuple[Fraction, ...]
    operations: tuple[Operation, ...]
    signed: bool = False
    bracketed: bool = False


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
    return Expression(value, numbers, tuple(parser.operations), parser.signed, "(" in tokens)


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
        if len(match["number"].replace(",", "")) > MAX_DIGITS:
            return None
        tokens.append(digits_value(match["number"]) / (100 if match["percent"] else 1))
    return tokens


class _Parser:
    """Recursive descent: a total of products of factors."""

    def __init__(self, tokens: list[Fraction | str]) -> None:
        self.tokens = tokens
        self.place = 0
        self.operations: list[Operation] = []
        self.signed = False

    def total(self, depth: int) -> Fraction:
        value = self._product(depth)
        while (mark := self._next()) in ("+", "-"):
            self.place += 1
            value = self._done(value, str(mark), self._product(depth))
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while (mark := self._next()) in ("*", "/"):
            self.place += 1
            value = self._done(value, str(mark), self._factor(depth))
        return value

    def _done(self, left: Fraction, sign: str, right: Fraction) -> Fraction:
        self.operations.append(Operation(left, sign, right))
        return self.operations[-1].result

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
