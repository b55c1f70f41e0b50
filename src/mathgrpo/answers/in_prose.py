"""The last expression of a text: whole, as it stands there, or nothing. "so it is 3x+2" ends with 3x+2, not with 2.

Every search is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from mathgrpo.answers.numbers import parse_number
from mathgrpo.arithmetic.number_grammar import NUMBER_LIKE

MAX_CHARS = 200
"""Characters that an expression in prose has at most."""

_SIGNED = r"(?:(?<![0-9A-Za-z_)%])[+\-\u2212])?\\?[$£€]?[+\-\u2212]?"
_RUN = re.compile(
    rf"(?<![0-9A-Za-z_.,]){_SIGNED}(?:{NUMBER_LIKE}|\.[0-9]+)(?: [0-9]+/[0-9]+)?"
    rf"(?: ?[-+*/^×÷\u2212] ?{NUMBER_LIKE})*(?:\\?%)?",
    re.ASCII,
)
_DELIMITER = re.compile(r"\\.|\$\$|\$", re.DOTALL)
_PAIRS = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_GROUPS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|begin|end)\s*\{[^{}]*\}")
_FUNCTIONS = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "mod", "gcd", "lcm"))
_INSIDE = re.compile(r"[0-9A-Za-z\\{}()\[\]^_/*+\-×÷·√π°∞½!|,.:%$£€'\u2212]")
_OPERATORS = frozenset("+-*/^×÷·\u2212")
_END = re.compile(r"\\end\s*\{[^{}]*\}")
_EQUALS = re.compile(r"=|≈|~|\\(?:approx|implies|Rightarrow|iff|to|rightarrow)(?![A-Za-z])")
_SEVERAL = re.compile(r"\\text\s*\{\s*(?:or|and)\s*\}|\\(?:lor|land|vee|wedge|quad|qquad)(?![A-Za-z])|,")
_CLOCK = re.compile(r" ?[AaPp](?:[Mm]\b|\.[Mm]\.)")
_MEASURE = re.compile(r"[$£€]?[0-9][0-9,]*(?:\.[0-9]+)?[A-Za-z]{3,9}", re.ASCII)
_TOKEN, _TOKEN_BEFORE = re.compile(r"[^\s]+"), re.compile(r"[^\s]+$")
_NEAR = 60
"""Characters looked at for an operand behind a space."""
MAX_NAME_CHARS = 12
"""Characters of the left side of an equation that only names its right side: "x", "f(x)"."""


class Expression(NamedTuple):
    """An expression of a text, and where it ends; text "": there is one, but it cannot be taken whole."""

    text: str
    start: int
    end: int


def formulas(text: str) -> list[Expression]:
    """Return what stands between dollar signs or LaTeX brackets, in order; amounts of dollars are none.

    Example:
        >>> [found.text for found in formulas(r"$5 and $6 make \\(x = 11\\), so $$y=3$$")]
        ['x = 11', 'y=3']
    """
    found: list[Expression] = []
    opening: re.Match[str] | None = None
    for mark in _DELIMITER.finditer(text):
        closes = opening is not None and mark[0] == _PAIRS[opening[0]]
        if opening is not None and closes and _is_formula(inner := text[opening.end() : mark.start()], opening[0]):
            found.append(Expression(inner.strip(), opening.start(), mark.end()))
            opening = None
        elif mark[0] in _PAIRS and (opening is None or closes or mark[0] != "$"):
            opening = mark
    return found


def _is_formula(inner: str, opening: str) -> bool:
    if not inner.strip() or len(inner) > MAX_CHARS:
        return False
    if opening == "$" and (inner[0].isspace() or inner[-1].isspace() or "\n" in inner):
        return False
    return all(len(word) < 4 or word == "sqrt" for word in _WORD.findall(_GROUPS.sub("", inner)))


def last_expression(text: str) -> str | None:
    """Return the last formula or number of a text, whichever comes later; "" where it is not whole, None without one.

    Example:
        >>> last_expression("so it is 3x+2"), last_expression("Therefore, $$y=3$$"), last_expression("from 5 to 18.")
        ('3x+2', '3', '18')
    """
    marked = formulas(text)
    plain = _last_plain(text, marked[-1].end if marked else 0)
    if plain is not None:
        return plain.text
    return result(marked[-1].text) if marked else None


def expressions(text: str) -> list[str]:
    """Return the formulas and numbers of a short text, in order, each whole or ""."""
    marked = formulas(text)
    plain = [found for found in _plain(text) if not any(m.start <= found.start < m.end for m in marked)]
    return [found.text for found in sorted([*marked, *plain], key=lambda found: found.start)]


def result(formula: str) -> str:
    r"""Return what a formula comes to: what is behind its last "=", but several equations and "y = 2x" as they are.

    Example:
        >>> result(r"3 \cdot 4 = 12"), result("x = 3, y = 5"), result("y = 2x"), result("x = 5.")
        ('12', 'x = 3, y = 5', 'y = 2x', '5')
    """
    formula = formula.strip().rstrip(".,;").strip()
    places = list(_EQUALS.finditer(formula))
    if not places or (len(places) > 1 and _SEVERAL.search(formula)):
        return formula
    right = _END.sub("", formula[places[-1].end() :]).strip(" &\n").removesuffix("\\\\").strip()
    left = formula[: places[-1].start()].strip()
    named = len(places) == 1 and len(left) <= MAX_NAME_CHARS and not left[:1].isdigit()
    return formula if named and parse_number(right) is None else right


def _last_plain(text: str, start: int) -> Expression | None:
    """Return the last number behind a place, with the expression it is part of; None without one."""
    last = next(iter(deque(_RUN.finditer(text, start), maxlen=1)), None)
    return None if last is None else _whole(text, last.start(), last.end())


def _plain(text: str) -> Iterator[Expression]:
    """Yield the numbers of a text with the expressions that they are part of, each expression once."""
    reached = -1
    for match in _RUN.finditer(text):
        if match.start() >= reached:
            found = _whole(text, match.start(), match.end())
            reached = max(found.end, match.end())
            yield found


def _whole(text: str, start: int, end: int) -> Expression:
    """Return the expression around a number: what touches it, and what operators with spaces around tie to it."""
    run = text[start:end].rstrip(", ")
    low, high = _reach(text, start, -1), _reach(text, end, 1)
    if low is None or high is None:
        return Expression("", start, end)
    piece = text[low:high]
    equals = list(_EQUALS.finditer(piece, 0, start - low))
    begin = low + equals[-1].end() if equals else low
    piece = _bare(text[begin:high])
    if piece == run or (parse_number(run) is not None and piece in (f"({run})", f"[{run}]", f"{{{run}}}", f"#{run}")):
        return Expression(run, start, high)
    clock = _CLOCK.match(text, high) if ":" in piece else None
    if clock:
        return Expression(piece + clock[0], start, clock.end())
    return Expression(piece if _is_expression(piece) else "", start, high)


def _reach(text: str, place: int, step: int) -> int | None:
    """Return how far an expression goes on from a place to the left (-1) or right (1); None if it is too long."""
    start = place
    while abs(place - start) <= MAX_CHARS:
        there = place - 1 if step < 0 else place
        if not 0 <= there < len(text):
            return place
        character = text[there]
        if _INSIDE.match(character) or (character == "=" and step < 0):
            place += step
        elif character == " " and (word := _tied(text, there, step)):
            place += word
        else:
            return place
    return None


def _tied(text: str, space: int, step: int) -> int:
    """Return how far to go over a space beside which an operator stands by itself, 0 where none does."""
    if step > 0:
        behind, beyond = text[space + 1 : space + 3], text[space + 3 : space + _NEAR]
        if len(behind) == 2 and behind[0] in _OPERATORS and behind[1] == " ":
            return 3 if _is_operand(_TOKEN.match(beyond)) else 0
        return 0
    before = text[max(0, space - _NEAR) : space]
    if before[-1:] in _OPERATORS and before[-2:-1] == " ":
        return -3 if _is_operand(_TOKEN_BEFORE.search(before[:-2])) else 0
    return 0


def _is_operand(token: re.Match[str] | None) -> bool:
    return token is not None and _is_expression(_bare(token[0]))


def _bare(piece: str) -> str:
    """Return an expression without the marks of the sentence around it, brackets that have no partner included."""
    for _ in range(4):
        before = piece
        piece = piece.strip(" *_`'").rstrip(".,;:!?").lstrip(",:;#")
        for opening, closing in ("()", "[]", "{}"):
            if piece.startswith(opening) and piece.count(opening) > piece.count(closing):
                piece = piece[1:]
            if piece.endswith(closing) and piece.count(closing) > piece.count(opening) and not piece.endswith("\\}"):
                piece = piece[:-1]
        if piece == before:
            break
    return piece


def _is_expression(piece: str) -> bool:
    """Return whether a text is mathematics without words, its brackets closed: "3x+2", r"\\frac{1}{2}", "√51"."""
    if not piece or len(piece) > MAX_CHARS:
        return False
    plain = _GROUPS.sub("", piece)
    if any(word not in _FUNCTIONS for word in _WORD.findall(plain)) and not _MEASURE.fullmatch(plain):
        return False
    return piece.count("{") == piece.count("}")
