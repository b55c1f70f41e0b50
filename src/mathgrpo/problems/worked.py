"""Worked solutions cut down to their arithmetic: prose such as "9 books * £10 = £90 on books" becomes "9 * 10 = 90".

A solution survives only if every step is exactly true and the last result is the gold answer, so that a model
never learns from a false line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_UNIT_SLASH = re.compile(r"(?<=[A-Za-z])/(?=[A-Za-z])|/(?=[A-Za-z])")
_TOKEN = re.compile(r"\d[\d,]*(?:\.\d+)?|[-+*/=×()%]|(?<=\s)x(?=\s)|[A-Za-z]+")
_SIGNS = {"×": "*", "x": "*"}


@dataclass(frozen=True, slots=True)
class Step:
    """One true line of arithmetic with two operands.

    Example:
        >>> str(Step(Fraction(9), "*", Fraction(10)))
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
        return f"{decimal_text(self.left)}{self.sign}{decimal_text(self.right)}={decimal_text(self.result)}"


def decimal_text(value: Fraction) -> str:
    """Return a number as people write it: "36" for 36.0, "2.5" for 5/2.

    Raises:
        ValueError: the number has no finite decimal form.
    """
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        raise ValueError(f"{value} has no finite decimal form")
    return f"{float(value):.10f}".rstrip("0")


def clean_answer(answer: str) -> str | None:
    """Return a gold answer in plain form ("36" for "36.0"), or None when it is not a finite decimal number.

    Example:
        >>> clean_answer("1,236.0"), clean_answer("1/3")
        ('1236', None)
    """
    try:
        return decimal_text(Fraction(answer.replace(",", "").strip()))
    except (ValueError, ZeroDivisionError):
        return None


def worked_steps(solution: str, answer: str) -> tuple[Step, ...] | None:
    """Return the arithmetic of a prose solution as two-operand steps, or None when it does not hold together.

    None means: a line whose two sides differ (rounded, say), an expression this reader does not know, no step at
    all, or a last result that is not the answer.

    Example:
        >>> [str(s) for s in worked_steps("Cost: 2 pens * £3 + £4 = £10\\n#### 10", "10")]
        ['2*3=6', '6+4=10']
    """
    steps: list[Step] = []
    for line in solution.split("####")[0].splitlines():
        found = _line_steps(line)
        if found is None:
            return None
        steps.extend(step for step in found if step not in steps)
    if not steps or clean_answer(answer) is None or steps[-1].result != Fraction(clean_answer(answer) or "0"):
        return None
    return tuple(steps)


def steps_text(steps: tuple[Step, ...]) -> str:
    """Return steps as a solution, one to a line."""
    return "\n".join(str(step) for step in steps)


def _line_steps(line: str) -> list[Step] | None:
    """Return the steps of every equation in a line; None when one of them cannot be read or is false."""
    if "=" not in line:
        return []
    pieces = [list(_expression(piece)) for piece in _UNIT_SLASH.sub(" ", line).split("=")]
    steps: list[Step] = []
    for left, right in itertools.pairwise(pieces):
        if len(left) < 3:
            continue
        if not right:
            return None
        try:
            reduced = _reduce(left)
            value = Fraction(right[0])
            for step in reduced:
                str(step)
        except (ValueError, ZeroDivisionError):
            return None
        if reduced[-1].result != value:
            return None
        steps.extend(reduced)
    return steps


def _expression(text: str) -> Iterator[str]:
    """Yield the numbers and signs of the last expression in a piece of prose, words dropped.

    Two numbers with only words between them start a new expression at the second.
    """
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        token = _SIGNS.get(token, token)
        if token[0].isdigit():
            if tokens and tokens[-1][0].isdigit():
                tokens = []
            tokens.append(token.replace(",", ""))
        elif (token in "+-*/" and tokens and tokens[-1][0].isdigit()) or token in "()%":
            tokens.append(token)
    return iter(tokens)


def _reduce(tokens: list[str]) -> list[Step]:
    """Return an expression as two-operand steps, products before sums, left to right.

    Raises:
        ValueError: brackets, percentages or a sign without a number.
    """
    if (
        len(tokens) % 2 == 0
        or any(not t[0].isdigit() for t in tokens[::2])
        or any(t not in "+-*/" for t in tokens[1::2])
    ):
        raise ValueError(f"not a plain expression: {' '.join(tokens)}")
    values, signs = [Fraction(t) for t in tokens[::2]], list(tokens[1::2])
    steps: list[Step] = []
    for level in ("*/", "+-"):
        i = 0
        while i < len(signs):
            if signs[i] not in level:
                i += 1
                continue
            step = Step(values[i], signs[i], values[i + 1])
            steps.append(step)
            values[i : i + 2], signs[i : i + 1] = [step.result], []
    return steps
