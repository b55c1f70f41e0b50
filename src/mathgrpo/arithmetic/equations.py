"""The equations of a text: every "A = B" whose sides are arithmetic, units, words and LaTeX dress left out.

"Natalia sold 48/2 = 24 clips", "5 apples + 3 apples = 8 apples", "20% of 50 = 10", "$1,200 x 2 = $2,400",
"\\frac{1}{2} \\times 8 = 4". What cannot be read ("2x + 3 = 7") is no equation.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from mathgrpo.arithmetic.expressions import evaluate
from mathgrpo.arithmetic.number_grammar import CURRENCY, NUMBER

EQUALS = re.compile(r"(?<![=<>!])=(?!=)")
ANNOTATION = re.compile(r"<<[^<>]*>>")
"""A calculator annotation of GSM8K: "48/2 = <<48/2=24>>24"."""
_BULLET = re.compile(r"^[ \t]*(?:(?:[-*•>#]+|[0-9]{1,2}[.):]|\([0-9]{1,2}\)|[Ss]tep [0-9]{1,2}[.:])[ \t]+)+")
_PER_UNIT = re.compile(r"(?<=[A-Za-z]{2})/[A-Za-z]+", re.ASCII)  # "miles/hour": the slash divides units
_NUMBER = rf"[{''.join(CURRENCY)}]?{NUMBER}(?: ?%)?"
_PIECE = re.compile(
    rf"(?P<space>[ \t]*)(?:(?P<number>{_NUMBER})|(?P<mark>[-+*/×÷·⋅−()])|(?P<word>[A-Za-z]+)|(?P<other>[^ \t\n]))",
    re.ASCII,
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]{1,60})\}\{([^{}]{1,60})\}")
_TEXT_GROUP = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]{0,60})\}")
_LATEX_SIGNS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\left": "", "\\right": "", "\\$": "", "\\%": "%"}
_LATEX_SIGN = re.compile(r"\\(?:times|cdot|div|left|right)(?![a-zA-Z])|\\[$%]")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\quad")
_DIGITS = re.compile(_NUMBER, re.ASCII)
_OPERATORS = "+-*/×÷·⋅−("
_PREFIXES = "√∛∜±∓"
_JOINTS = ",.:'’_"
_GOES_ON = re.compile(r"[(!²³¹⁰⁴-⁹½¼¾⅓⅔√π]|[,.:'’_][0-9]|[abcknpqrtuvwxyz](?![A-Za-z])")
"""What may stand right behind a number and make it another: 3!, 5², 2(5), 3x, 3,5, 11:30."""


class Equation(NamedTuple):
    """Two sides, each an expression for `evaluate`; goes_on: what follows may belong to the right one ("= 3!")."""

    left: str
    right: str
    goes_on: bool


class _Piece(NamedTuple):
    """A number, mark, word or other character; apart: there is space before it."""

    kind: str
    text: str
    apart: bool


def read_equations(line: str) -> list[Equation]:
    """Return the equations of a line in order; of "2 * 3 = 6 = 12/2" both. Never raises.

    Example:
        >>> read_equations("In May 48/2 = 24 clips.")
        [Equation(left='48/2', right='24', goes_on=False)]
    """
    sides = [
        [_Piece(str(m.lastgroup), m[str(m.lastgroup)], bool(m["space"])) for m in _PIECE.finditer(part)]
        for part in EQUALS.split(line)
    ]
    found = []
    for left_side, right_side in itertools.pairwise(sides):
        result, goes_on = _prefix(right_side)
        left, right = _without_open_brackets(_suffix(left_side), result)
        if left and right:
            found.append(Equation(left, right, goes_on))
    return found


def numbers_in(text: str) -> list[Fraction]:
    """Return the numbers written in a text with ASCII digits; "20%" is both 20 and 1/5."""
    found = []
    for match in _DIGITS.finditer(text):
        value = evaluate(match[0])
        if value is not None:
            found += [value.value, value.value * 100] if "%" in match[0] else [value.value]
    return found


def bare_line(line: str) -> str:
    """Return a line without calculator annotations and the bullet or number that it begins with."""
    return _BULLET.sub("", ANNOTATION.sub("", line), count=1)


def plain_line(line: str) -> str:
    """Return a bare line without units after a slash and the LaTeX that only dresses arithmetic."""
    text = _PER_UNIT.sub("", bare_line(line).replace("–", "-"))
    if "\\" not in text:
        return text
    text = _TEXT_GROUP.sub(r" \1 ", _FRACTION.sub(r"((\1)/(\2))", text))
    text = _LATEX_SPACE.sub(" ", _LATEX_SIGN.sub(lambda match: _LATEX_SIGNS[match[0]], text))
    for wrapper in ("\\(", "\\)", "\\[", "\\]", "$"):
        text = text.replace(wrapper, "")
    return text


def _without_open_brackets(left: str, right: str) -> tuple[str, str]:
    """Return both sides of "(48/2 = 24)" without the brackets around the whole."""
    while left.startswith("(") and left.count("(") > left.count(")"):
        left = left[1:]
    while right.endswith(")") and right.count(")") > right.count("("):
        right = right[:-1]
    return left, right


def _suffix(pieces: list[_Piece]) -> str:
    """Return the expression that ends before an "=", "" for none: units are left out, "of" and "x" multiply."""
    taken: list[str] = []
    units = 0
    for place in range(len(pieces) - 1, -1, -1):
        kind, text, _ = pieces[place]
        follower = taken[-1] if taken else "="
        if kind == "word" and _multiplies(pieces, place, follower):
            taken.append("*")
        elif kind == "word" and len(text) > 1 and units < 2 and follower in "=+-*/)×÷·⋅−":
            units += 1
        elif kind == "number" or text == ")":
            if _is_value(follower):
                return ""  # "3 1/2": a mixed number, or two numbers with no sign between them
            if follower == "(":
                taken.append("*")
            taken.append(text)
            units = 0
        elif kind == "mark" and not units:
            taken.append(text)
        elif _changes_what_follows(pieces, place):
            return ""
        else:
            return _expression(reversed(taken), cut=True)
    return _expression(reversed(taken), cut=bool(units))


def _changes_what_follows(pieces: list[_Piece], place: int) -> bool:
    """Return whether a piece belongs to the number or bracket right behind it: x1, 1e3, √16, sqrt(9), the 2 of 2,5."""
    follower = _next(pieces, place)
    if follower.apart or not (follower.kind == "number" or follower.text == "("):
        return False
    kind, text, apart = pieces[place]
    joins = text in _JOINTS and place > 0 and not apart and pieces[place - 1].kind == "number"
    return kind == "word" or text in _PREFIXES or text.isalnum() or joins


def _prefix(pieces: list[_Piece]) -> tuple[str, bool]:
    """Return the expression that begins after an "=", "" for none, and whether what follows may be a part of it."""
    taken: list[str] = []
    goes_on = False
    for place, (kind, text, apart) in enumerate(pieces):
        last, follower = taken[-1] if taken else "=", _next(pieces, place)
        if kind == "word" and taken and _multiplies(pieces, place, follower.text):
            taken.append("*")
        elif kind == "number" and (_is_value(last) or last == ")"):
            return "", False
        elif kind in ("number", "mark") and not (text == "(" and (_is_value(last) or last == ")")):
            taken.append(text)
        elif not (kind == "word" and _is_value(last) and len(text) > 1 and follower.text in "+*/×÷·"):
            joined = text if follower.apart else text + follower.text
            goes_on = last in _OPERATORS or (not apart and _GOES_ON.match(joined) is not None)
            break
    while taken and taken[-1] in _OPERATORS:
        taken.pop()
    return _expression(taken, cut=False), goes_on


def _multiplies(pieces: list[_Piece], place: int, follower: str) -> bool:
    """Return whether a word is a times sign: "of" or "x" with a value on both sides; for "x" a unit may precede."""
    word, before = pieces[place].text, pieces[place - 1].text if place else ""
    if word not in ("of", "x", "X") or not (_is_value(follower) or follower == "("):
        return False
    return _is_value(before) or before == ")" or (word != "of" and len(before) > 1 and before.isalpha())


def _next(pieces: list[_Piece], place: int) -> _Piece:
    """Return the piece behind one; at the end, one that is like nothing."""
    return pieces[place + 1] if place + 1 < len(pieces) else _Piece("end", "\n", True)


def _is_value(text: str) -> bool:
    return bool(text) and (text[0] in "0123456789." or text[0] in CURRENCY)


def _expression(taken: Iterable[str], *, cut: bool) -> str:
    """Return pieces as one text; "" when a part of the expression was cut off before them."""
    pieces = list(taken)
    if not pieces or (cut and pieces[0] in "+-*/×÷·⋅−"):
        return ""
    text = " ".join(pieces)
    return text.replace("( ", "(").replace(" )", ")").replace(" / ", "/")
