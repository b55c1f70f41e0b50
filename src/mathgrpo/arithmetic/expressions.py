"""Exact arithmetic on untrusted text: + - * / and brackets over fractions, without eval, bounded in size.

Python's parser reads the structure, from a text in which every number is a name. No powers: "9**9**9" would hang. What
is too long or too deep is not read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from mathgrpo.arithmetic.number_grammar import CURRENCY, NUMBER, digits_value, number_text

MAX_CHARS = 300
MAX_DIGITS = 15
MAX_DEPTH = 20

_NUMBER = re.compile(rf"[{''.join(CURRENCY)}]?({NUMBER})( ?%)?", re.ASCII)
_WRITTEN = re.compile(rf"[-+*/()0-9.,%{''.join(CURRENCY)} \t]*", re.ASCII)
_NEGATED_BRACKET = re.compile(r"(?:^|[-+*/(])[ \t]*-[ \t]*\(")
_TYPED = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-"})
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


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
    typed = text.translate(_TYPED).rstrip()
    if len(text) > MAX_CHARS or not _WRITTEN.fullmatch(typed) or _NEGATED_BRACKET.search(typed):
        return None
    if bracket_depth(typed) > MAX_DEPTH:
        return None
    written = [(match[1], match[2]) for match in _NUMBER.finditer(typed)]
    if any(len(digits.replace(",", "")) > MAX_DIGITS for digits, _ in written):
        return None
    numbers = tuple(digits_value(digits) / (100 if percent else 1) for digits, percent in written)
    operations: list[Operation] = []
    try:
        tree = ast.parse(_NUMBER.sub(" n ", typed).strip(), mode="eval").body
        value = _value(tree, iter(numbers), operations)
    except (SyntaxError, _Unreadable, ZeroDivisionError):
        return None
    signed = typed.count("-") > sum(done.sign == "-" for done in operations)
    return Expression(value, numbers, tuple(operations), signed, "(" in typed)


class _Unreadable(Exception):
    pass


def _value(node: ast.expr, numbers: Iterator[Fraction], done: list[Operation]) -> Fraction:
    """Return the value of a part of an expression; its numbers and operations are met in the order of the text."""
    match node:
        case ast.Name():
            return next(numbers)
        case ast.UnaryOp(ast.USub(), ast.Name()):
            return -next(numbers)
        case ast.BinOp(left, sign, right) if type(sign) in _SIGNS:
            done.append(Operation(_value(left, numbers, done), _SIGNS[type(sign)], _value(right, numbers, done)))
            return done[-1].result
    raise _Unreadable


def bracket_depth(text: str) -> int:
    """Return how deep the brackets of a text go, of whatever kind."""
    deepest = depth = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    return deepest
