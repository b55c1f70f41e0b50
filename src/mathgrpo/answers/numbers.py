"""Exact reading of a number as a model or a data set writes it: "$1,200.50", "-5 1/2", "18 eggs", "\frac{1}{2}".

What is read: ASCII digits; "," between groups of three; one sign (+, -, U+2212) before or behind a currency sign; a
decimal point; a/b and mixed "5 1/2"; 1e3; a unit behind; a full stop at the end; "x =" before; light LaTeX dress.
What is not: other digits, several numbers, sums and products, a division that was left undone ("36/2"), inf and nan.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from mathgrpo.arithmetic.number_grammar import CURRENCY, INTEGER, NUMBER, digits_value

MAX_NUMBER_CHARS = 600
"""Longer texts are not read. Below Python's smallest limit for int() (640 digits), so int() cannot raise."""

_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<currency>[{''.join(CURRENCY)}]) ?)?(?P<late_sign>[+-]?)"
    rf"(?:(?P<whole>{INTEGER}) (?P<part>[0-9]+)/(?P<parts>[0-9]+)"
    rf"|(?P<over>{INTEGER}) ?/ ?(?P<under>{INTEGER})"
    rf"|(?P<decimal>{NUMBER})(?:[eE](?P<exponent>[+-]?[0-9]{{1,3}}))?)"
    r"(?![0-9,]|\.[0-9])(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
_VARIABLE = re.compile(r"[A-Za-z] ?= ?", re.ASCII)
_SPACES = re.compile(r"[ \t\r\n\u00a0\u202f]+")

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_WRAPPERS = (("```", "```"), ("**", "**"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"))
_THIN_THOUSANDS = re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))")
_FRACTION = re.compile(r"\\[dt]?frac(?:\{([0-9]+)\}\{([0-9]+)\}|([0-9])([0-9]))")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\{([^{}\\]*)\}")
_LATEX_SPACE = re.compile(r"\\[,;: ]|\\quad|~")
_DEGREES = re.compile(r"\^\{?\\circ\}?|\\degree")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what stood around it.

    Attributes:
        value: the number, exactly. For "50%" it is 50: the sign is a unit, and the grader decides what it means.
        unit: "" | "%" | a currency's name | the words behind the number.
    """

    value: Fraction
    unit: str = ""


def parse_number(text: str) -> Fraction | None:
    """Return the one number that a text is, exactly, or None if it is anything else.

    Example:
        >>> parse_number("$1,200.50 per day"), parse_number("1,20"), parse_number("18 or 19")
        (Fraction(2401, 2), None, None)
    """
    quantity = read_quantity(text)
    return None if quantity is None else quantity.value


def read_quantity(text: str) -> Quantity | None:
    """Return the one number that a text is, with its unit, or None if it is anything else.

    Example:
        >>> read_quantity("5 km/h")
        Quantity(value=Fraction(5, 1), unit='km/h')
    """
    stripped = text.strip()
    if len(stripped) > MAX_NUMBER_CHARS:
        return None
    return _read(stripped)


@lru_cache(maxsize=8192)
def _read(text: str) -> Quantity | None:
    match = _NUMBER.fullmatch(_undress(text))
    if match is None or (match["sign"] and match["late_sign"]):
        return None
    unit = read_unit(match["rest"])
    magnitude = _magnitude(match)
    if unit is None or magnitude is None:
        return None
    negative = "-" in (match["sign"], match["late_sign"])
    currency = CURRENCY[match["currency"]] if match["currency"] else ""
    return Quantity(-magnitude if negative else magnitude, f"{currency} {unit}".strip())


def _magnitude(match: re.Match[str]) -> Fraction | None:
    """Return the unsigned value of a matched number; None for n/0, for "36/2" and for "5 3/2"."""
    if match["whole"] is not None:
        part, parts = int(match["part"]), int(match["parts"])
        return digits_value(match["whole"]) + Fraction(part, parts) if 0 < part < parts else None
    if match["over"] is not None:
        under = digits_value(match["under"])
        value = digits_value(match["over"]) / under if under else None
        # An integer written as a division is a computation left to the reader, not an answer.
        return value if value is not None and value.denominator > 1 else None
    value = digits_value(match["decimal"])
    return value * Fraction(10) ** int(match["exponent"]) if match["exponent"] else value


def _undress(text: str) -> str:
    """Return the text without markdown, LaTeX wrappers, "x =" and the full stop at its end."""
    text = _SPACES.sub(" ", text.replace("\u2212", "-")).strip()
    for _ in range(4):
        inner = unwrap(text)
        if inner == text:
            break
        text = inner.strip()
    if "\\" in text or "{" in text:
        text = _plain_latex(text)
    text = text[:-1].rstrip() if text.endswith(".") else text
    return _VARIABLE.sub("", text, count=1) if _VARIABLE.match(text) else text


def unwrap(text: str) -> str:
    """Return what one wrapper holds: \\boxed{18} -> 18, **18** -> 18, $18$ -> 18."""
    boxed = _BOXED.fullmatch(text.removesuffix("."))
    if boxed:
        return boxed[1]
    for opening, closing in _WRAPPERS:
        bare = text.removesuffix(".") if text.startswith(opening) and not text.endswith(closing) else text
        inner = bare[len(opening) : -len(closing)]
        wrapped = bare.startswith(opening) and bare.endswith(closing) and len(bare) > len(opening) + len(closing)
        if wrapped and opening not in inner.replace("\\$", ""):
            return inner
    return text


def _plain_latex(text: str) -> str:
    """Return the text with the LaTeX that dresses plain numbers taken off; other LaTeX stays and is not read."""
    text = _THIN_THOUSANDS.sub(",", text.replace("\\!", "").replace("{,}", ","))
    text = text.replace("\\$", "$").replace("\\%", "%").replace("\\pounds", "£").replace("\\euro", "€")
    text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
    text = _DEGREES.sub(" degrees", _TEXT.sub(r" \1 ", text))
    return re.sub(r"^([+-]) ", r"\1", _SPACES.sub(" ", _LATEX_SPACE.sub(" ", text)).strip())


MAX_UNIT_CHARS = 60

_WORD = r"[A-Za-z°]+(?:\^?[23²³])?"
_UNIT = re.compile(rf"/?{_WORD}(?:[ ./'-]{{1,2}}{_WORD})*", re.ASCII)
_PERCENT = re.compile(r"%|percent(?:age)?(?: points?)?|per cent|pct", re.ASCII | re.IGNORECASE)
_SEPARATORS = re.compile(r"[ ./'-]+")
# A lone letter behind a number is more often a variable ("5x") or a thousand ("18k") than a unit: these are units.
_LETTER_UNITS = frozenset("mgslhLCFKWV")
# Words that hedge ("18 or nineteen"), deny ("18 is wrong") or rescale ("18 thousand") the number before them.
# fmt: off
_NOT_UNITS = frozenset((
    "or", "and", "not", "no", "is", "isn", "are", "was", "be", "to", "but", "if", "maybe", "perhaps", "than", "minus",
    "plus", "times", "over", "divided", "by", "modulo", "mod", "negative", "below", "squared", "cubed", "factorial",
    "root", "half", "halves", "thirds", "fourths", "fifths", "hundred", "hundreds", "thousand", "thousands", "million",
    "millions", "billion", "billions", "trillion", "dozen", "dozens", "zero", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
    "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
    "equals",
))
# fmt: on


def read_unit(text: str) -> str | None:
    """Return the unit that a text behind a number names, "" for none, "%" for per cent, None if it is no unit.

    Example:
        >>> read_unit(" km/h"), read_unit("%"), read_unit(" or nineteen")
        ('km/h', '%', None)
    """
    unit = text.strip()
    if not unit:
        return ""
    if len(unit) > MAX_UNIT_CHARS:
        return None
    if _PERCENT.fullmatch(unit):
        return "%"
    if unit in CURRENCY:
        return CURRENCY[unit]
    denied = _NOT_UNITS.intersection(_SEPARATORS.split(unit.casefold()))
    if denied or not _UNIT.fullmatch(unit.removesuffix(".")):
        return None
    return None if len(unit) == 1 and unit not in _LETTER_UNITS else unit


def unit_words(unit: str) -> frozenset[str]:
    """Return the words of a unit, blind to case and plural: "Dollars per hour" -> dollar, per, hour."""
    words = _SEPARATORS.split(unit if len(unit) == 1 else unit.casefold())
    return frozenset(word.removesuffix("s") if len(word) > 3 else word for word in words if word)


def units_agree(answer_unit: str, gold_unit: str) -> bool:
    """Return whether an answer's unit is the gold's: one may be left out, or say more than the other.

    Example:
        >>> units_agree("", "cm"), units_agree("dollars per day", "dollar"), units_agree("m", "cm")
        (True, True, False)
    """
    answer_words, gold_words = unit_words(answer_unit), unit_words(gold_unit)
    return answer_words <= gold_words or gold_words <= answer_words
