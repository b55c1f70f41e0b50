"""The arithmetic claims of a text: every "A = B" in which a side computes something, and whether it is true.

Read exactly and in this process (`arithmetic.py`): "Natalia sold 48/2 = 24 clips", "5 apples + 3 apples = 8 apples",
"20% of 50 = 10", "$1,200 x 2 = $2,400", "\\frac{1}{2} \\times 8 = 4". A line that is still LaTeX after that, or has a
power, is put to math-verify in its killable child process. What cannot be read ("2x + 3 = 7") is no claim.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from mathgrpo.answers.latex import latex_verdict
from mathgrpo.rewards.arithmetic import Expression, evaluate

MAX_LINES = 200
MAX_LINE_CHARS = 400
MAX_LATEX_LINES = 4
"""Lines of one text that are put to the child process; each may cost its wall limit."""
ROUNDED_DECIMALS = 2
"""From so many decimals on, a result may be rounded: 10 / 3 = 3.33."""

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_BULLET = re.compile(r"^[ \t]*(?:(?:[-*•>#]+|[0-9]{1,2}[.):]|\([0-9]{1,2}\)|[Ss]tep [0-9]{1,2}[.:])[ \t]+)+")
_PER_UNIT = re.compile(r"(?<=[A-Za-z]{2})/[A-Za-z]+", re.ASCII)  # "miles/hour": the slash divides units
_EQUALS = re.compile(r"(?<![=<>!])=(?!=)")
_NUMBER = r"[$£€]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?: ?%)?|[$£€]?\.[0-9]+(?: ?%)?"
_PIECE = re.compile(
    rf"(?P<number>{_NUMBER})|(?P<mark>[-+*/×÷·⋅−()])|(?P<word>[A-Za-z]+)|(?P<space>[ \t]+)|(?P<other>.)", re.ASCII
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]{1,60})\}\{([^{}]{1,60})\}")
_TEXT_GROUP = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]{0,60})\}")
_LATEX_SIGNS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\left": "", "\\right": "", "\\$": "", "\\%": "%"}
_LATEX_SIGN = re.compile(r"\\(?:times|cdot|div|left|right)(?![a-zA-Z])|\\[$%]")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\quad")
_MATH = re.compile(r"\$([^$\n]{1,300})\$|\\\(([^\n]{1,300}?)\\\)|\\\[([^\n]{1,300}?)\\\]")
_POWERS_ONLY = re.compile(r"[0-9+\-*/^(). ]+=[0-9+\-*/^(). ]+", re.ASCII)
_DIGITS = re.compile(_NUMBER, re.ASCII)
_OPERATORS = "+-*/×÷·⋅−("
_PREFIXES = "√∛∜±∓"
_JOINTS = ",.:'’_"
_GOES_ON = re.compile(r"[(!²³¹⁰⁴-⁹½¼¾⅓⅔√π]|[,.:'’_][0-9]|[abcknpqrtuvwxyz](?![A-Za-z])")
"""What may stand right behind a number and make it another: 3!, 5², 2(5), 3x, 3,5, 11:30."""
_DECIMALS = re.compile(r"\.([0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim that can be checked.

    Attributes:
        text: as read, "48/2 = 24".
        true: it holds, exactly or as rounded.
        operands: the numbers that it computes with.
        result: the number that it says comes out.
    """

    text: str
    true: bool
    operands: tuple[Fraction, ...]
    result: Fraction


class _Piece(NamedTuple):
    kind: str
    text: str


def read_claims(text: str) -> list[Claim]:
    """Return the claims of a text in order; of a very long one, those of its first lines. Never raises.

    Example:
        >>> [(claim.text, claim.true) for claim in read_claims("She sold 48/2 = 24 in May.\\nIn all 48 + 24 = 71.")]
        [('48/2 = 24', True), ('48 + 24 = 71', False)]
    """
    claims: list[Claim] = []
    latex_left = MAX_LATEX_LINES
    for line in text.splitlines()[:MAX_LINES]:
        if "=" not in line or len(line) > MAX_LINE_CHARS:
            continue
        plain = _plain(line)
        if "\\" not in plain and "^" not in plain:
            claims += _line_claims(plain)
        elif latex_left:
            latex_left -= 1
            claims += _latex_claim(line)
    return claims


def numbers_in(text: str) -> list[Fraction]:
    """Return the numbers written in a text with ASCII digits; "20%" is both 20 and 1/5."""
    found = []
    for match in _DIGITS.finditer(text):
        value = evaluate(match[0])
        if value is not None:
            found += [value.value, value.value * 100] if "%" in match[0] else [value.value]
    return found


def _plain(line: str) -> str:
    """Return a line without annotations, bullets and the LaTeX that only dresses arithmetic."""
    text = _BULLET.sub("", _ANNOTATION.sub("", line), count=1).replace("–", "-")
    text = _PER_UNIT.sub("", text)
    if "\\" not in text:
        return text
    text = _TEXT_GROUP.sub(r" \1 ", _FRACTION.sub(r"((\1)/(\2))", text))
    text = _LATEX_SPACE.sub(" ", _LATEX_SIGN.sub(lambda match: _LATEX_SIGNS[match[0]], text))
    for wrapper in ("\\(", "\\)", "\\[", "\\]", "$"):
        text = text.replace(wrapper, "")
    return text


def _line_claims(line: str) -> list[Claim]:
    sides = [[_Piece(str(m.lastgroup), m[0]) for m in _PIECE.finditer(part)] for part in _EQUALS.split(line)]
    found = []
    for left_side, right_side in itertools.pairwise(sides):
        result, goes_on = _prefix(right_side)
        left, right = _without_open_brackets(_suffix(left_side), result)
        claim = _claim(left, right) if left and right else None
        if claim and (claim.true or not goes_on):
            found.append(claim)
    return found


def _without_open_brackets(left: str, right: str) -> tuple[str, str]:
    """Return both sides of "(48/2 = 24)" without the brackets around the whole."""
    while left.startswith("(") and left.count("(") > left.count(")"):
        left = left[1:]
    while right.endswith(")") and right.count(")") > right.count("("):
        right = right[:-1]
    return left, right


def _claim(left_text: str, right_text: str) -> Claim | None:
    """Return the claim that two expressions are equal; None when one is none or neither computes."""
    left, right = evaluate(left_text), evaluate(right_text)
    if left is None or right is None or not (left.operations or right.operations):
        return None
    true = left.value == right.value or _rounds_to(left, right, right_text) or _in_percent(left_text, right_text)
    if not (true or left.operations):
        return None  # prose: "16 students drank 2 quarts = 16 * 2"
    computed, result = (left, right.value) if left.operations else (right, left.value)
    operands = computed.numbers if not (left.operations and right.operations) else left.numbers + right.numbers
    return Claim(f"{left_text} = {right_text}", true, operands, result)


def _in_percent(left_text: str, right_text: str) -> bool:
    """Return whether two sides are equal once the per cent sign is only a unit: 100 - 60 = 40%."""
    if ("%" in left_text) == ("%" in right_text):
        return False
    left, right = evaluate(left_text.replace("%", "")), evaluate(right_text.replace("%", ""))
    return left is not None and right is not None and left.value == right.value


def _rounds_to(exact: Expression, written: Expression, text: str) -> bool:
    decimals = _DECIMALS.search(text)
    if written.operations or decimals is None or len(decimals[1]) < ROUNDED_DECIMALS:
        return False
    return abs(exact.value - written.value) <= Fraction(1, 2 * 10 ** len(decimals[1]))


def _suffix(pieces: list[_Piece]) -> str:
    """Return the expression that ends before an "=", "" for none: units are left out, "of" and "x" multiply."""
    taken: list[str] = []
    units = 0
    for place in range(len(pieces) - 1, -1, -1):
        kind, text = pieces[place]
        if kind == "space":
            continue
        follower = taken[-1] if taken else "="
        if kind == "word" and _multiplies(text, pieces, place, follower):
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
    follower = pieces[place + 1] if place + 1 < len(pieces) else None
    if follower is None or not (follower.kind == "number" or follower.text == "("):
        return False
    kind, text = pieces[place]
    joins = text in _JOINTS and place > 0 and pieces[place - 1].kind == "number"
    return kind == "word" or text in _PREFIXES or text.isalnum() or joins


def _prefix(pieces: list[_Piece]) -> tuple[str, bool]:
    """Return the expression that begins after an "=", "" for none, and whether what follows may be a part of it."""
    taken: list[str] = []
    rest = ""
    for place, (kind, text) in enumerate(pieces):
        last = taken[-1] if taken else "="
        if kind == "space":
            continue
        if kind == "word" and taken and _multiplies(text, pieces, place, _text_after(pieces, place)):
            taken.append("*")
        elif kind == "number" and (_is_value(last) or last == ")"):
            return "", False
        elif text == "(" and (_is_value(last) or last == ")"):
            rest = _text_from(pieces, place)
            break
        elif kind in ("number", "mark"):
            taken.append(text)
        elif not (kind == "word" and _is_value(last) and len(text) > 1 and _text_after(pieces, place) in "+*/×÷·"):
            rest = _text_from(pieces, place)
            break
    goes_on = bool(_GOES_ON.match(rest)) or bool(rest and taken and taken[-1] in _OPERATORS)
    while taken and taken[-1] in _OPERATORS:
        taken.pop()
    return _expression(taken, cut=False), goes_on


def _multiplies(word: str, pieces: list[_Piece], place: int, follower: str) -> bool:
    """Return whether a word is a times sign: "of" or "x" with a value on both sides; for "x" a unit may precede."""
    before = next((text for kind, text in reversed(pieces[:place][-2:]) if kind != "space"), "")
    if word not in ("of", "x", "X") or not (_is_value(follower) or follower == "("):
        return False
    return _is_value(before) or before == ")" or (word != "of" and len(before) > 1 and before.isalpha())


def _text_from(pieces: list[_Piece], place: int) -> str:
    """Return the text from a piece on, with the space before it."""
    begin = place - 1 if place and pieces[place - 1].kind == "space" else place
    return "".join(piece.text for piece in pieces[begin:])


def _text_after(pieces: list[_Piece], place: int) -> str:
    return next((text for kind, text in pieces[place + 1 : place + 3] if kind != "space"), "\n")


def _is_value(text: str) -> bool:
    return text[:1] in "0123456789.$£€" and bool(text)


def _expression(taken: object, *, cut: bool) -> str:
    """Return pieces as one text; "" when a part of the expression was cut off before them."""
    pieces = list(taken)  # type: ignore[call-overload]
    if not pieces or (cut and pieces[0] in "+-*/×÷·⋅−"):
        return ""
    text = " ".join(pieces)
    return text.replace("( ", "(").replace(" )", ")").replace(" / ", "/")


def _latex_claim(line: str) -> list[Claim]:
    """Return the claim of a line of LaTeX, judged by math-verify; nothing where it is not one plain equation."""
    spans = [next(filter(None, match.groups())) for match in _MATH.finditer(line)]
    bare = _BULLET.sub("", _ANNOTATION.sub("", line), count=1).strip().rstrip(".")
    equations = [span for span in spans if len(_EQUALS.findall(span)) == 1]
    if not spans and ("\\" in bare or _POWERS_ONLY.fullmatch(bare)) and len(_EQUALS.findall(bare)) == 1:
        equations = [bare]
    for equation in equations[:1]:
        left, right = (side.strip() for side in _EQUALS.split(equation))
        result = evaluate(_plain(right).strip())
        verdict = latex_verdict(left, right) if result is not None and left and right else "unreadable"
        if result is not None and verdict in ("correct", "wrong"):
            return [Claim(f"{left} = {right}", verdict == "correct", tuple(numbers_in(left)), result.value)]
    return []
