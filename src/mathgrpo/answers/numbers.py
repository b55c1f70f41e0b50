"""Exact reading of a number as a model or a data set writes it: "$1,200.50", "-5 1/2", "18 eggs", "\\frac{1}{2}".

What is read: ASCII digits; "," between groups of three; one sign before or behind a currency sign; a decimal point;
a/b and mixed "5 1/2"; 1e3 and 1.2 \\times 10^3; scale words ("1.2 thousand"); a unit behind; "x =" before; LaTeX dress.
What is not: other digits, several numbers, sums and products, a division that was left undone ("36/2"), inf and nan.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from mathgrpo.answers.canonical import MAX_CHARS, canonical, unwrap
from mathgrpo.answers.units import SCALES, is_phrase, read_unit
from mathgrpo.arithmetic.number_grammar import CURRENCY, INTEGER, NUMBER, digits_value

__all__ = ["MAX_NUMBER_CHARS", "Quantity", "parse_number", "read_quantity", "unwrap"]

MAX_NUMBER_CHARS = MAX_CHARS
"""Longer texts are not read. Below Python's smallest limit for int() (640 digits), so int() cannot raise."""

_CODES = {"USD": "dollar", "US$": "dollar", "EUR": "euro", "GBP": "pound", "JPY": "yen", "INR": "rupee", "Rs.": "rupee",
          "Rs": "rupee", "RMB": "yuan", "CHF": "franc"}  # fmt: skip
_SIGNS = "|".join(map(re.escape, (*_CODES, *CURRENCY)))
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<currency>{_SIGNS}) ?)?(?P<late_sign>[+-]?)"
    r"(?:10\^(?:\{ ?(?P<tens>[+-]?[0-9]{1,3}) ?\}|(?P<tens_digit>[0-9](?![0-9])))"
    rf"|(?P<whole>{INTEGER}) (?P<part>[0-9]+)/(?P<parts>[0-9]+)"
    rf"|(?P<over>{INTEGER}) ?/ ?(?P<under>{INTEGER})"
    rf"|(?P<decimal>{NUMBER})(?:[eE](?P<exponent>[+-]?[0-9]{{1,3}})"
    r"| ?(?:\\times|\\cdot|\*|[xX]) ?10\^(?:\{ ?(?P<power>[+-]?[0-9]{1,3}) ?\}|(?P<digit>[0-9]{1,3})))?)"
    r"(?![0-9,]|\.[0-9])(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
_VARIABLE = re.compile(r"(?P<name>[A-Za-z]) ?= ?", re.ASCII)
_FRACTION = re.compile(rf"\\frac\{{ ?(-?) ?({INTEGER}) ?\}}\{{ ?(-?) ?({INTEGER}) ?\}}")
_TEXT = re.compile(r"\\text\{([^{}\\]*)\}")
_IN_BRACKETS = re.compile(r" ?\(([^()]*[A-Za-z%][^()]+)\)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what stood around it.

    Attributes:
        value: the number, exactly, scale words multiplied in. For "50%" it is 50: the sign is a unit, and the grader
            decides what it means.
        unit: "" | "%" | a currency's name | the words behind the number.
        scale: what a scale word multiplied it by.
        name: the letter before "=".
    """

    value: Fraction
    unit: str = ""
    scale: Fraction = Fraction(1)
    name: str = ""


def parse_number(text: str) -> Fraction | None:
    """Return the one number that a text is, exactly, or None if it is anything else.

    Example:
        >>> parse_number("$1,200.50 per day"), parse_number("1,20"), parse_number("18 or 19")
        (Fraction(2401, 2), None, None)
    """
    quantity = read_quantity(text)
    return None if quantity is None or read_unit(quantity.unit) is None else quantity.value


def read_quantity(text: str) -> Quantity | None:
    """Return the one number that a text is, with its unit, or None if it is anything else.

    The words behind it may turn out to be no unit ("18 seems wrong"): `units.read_unit` decides that.

    Example:
        >>> read_quantity("5 km/h")
        Quantity(value=Fraction(5, 1), unit='km/h', scale=Fraction(1, 1), name='')
    """
    stripped = text.strip()
    return None if len(stripped) > MAX_NUMBER_CHARS else _read(stripped)


@lru_cache(maxsize=8192)
def _read(text: str) -> Quantity | None:
    plain = canonical(text, phrases=False)
    return None if plain is None else read_canonical(plain)


@lru_cache(maxsize=8192)
def read_canonical(text: str) -> Quantity | None:
    """Return what `read_quantity` does, of a text that is in the one way of writing already."""
    named = _VARIABLE.match(text)
    dressed = text[named.end() :] if named else text
    if "\\" in dressed:
        dressed = _plain_latex(dressed)
    match = _NUMBER.fullmatch(dressed)
    if match is None or (match["sign"] and match["late_sign"]):
        return None
    magnitude = _magnitude(match)
    rest = _rest(match["rest"])
    if rest is None or magnitude is None:
        return None
    scale, unit = rest
    negative = "-" in (match["sign"], match["late_sign"])
    sign = match["currency"]
    unit = f"{_CODES.get(sign) or CURRENCY[sign]} {unit}".strip() if sign else unit
    value = (-magnitude if negative else magnitude) * scale
    return Quantity(value, unit, scale, named["name"] if named else "")


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
    power = match["tens"] or match["tens_digit"]
    if power:
        return Fraction(10) ** int(power)
    value = digits_value(match["decimal"])
    exponent = match["exponent"] or match["power"] or match["digit"]
    return value * Fraction(10) ** int(exponent) if exponent else value


def _rest(text: str) -> tuple[Fraction, str] | None:
    """Return the scale and the unit phrase behind a number, None when what stands there is more of an expression."""
    bracketed = _IN_BRACKETS.fullmatch(text)
    spaced = text[:1] in (" ", "-", "°", "%") or bracketed is not None
    unit = (bracketed[1] if bracketed else text).strip()
    unit = unit[1:] if unit[:1] == "-" and unit[1:2].isalpha() else unit
    if unit in CURRENCY:
        return Fraction(1), CURRENCY[unit]
    if unit.endswith(".") and not re.search(r"[ap]\.m\.$", unit):
        unit = unit[:-1]
    scale = Fraction(1)
    while unit:
        word, _, after = unit.partition(" ")
        factor = SCALES.get(word.casefold())
        if factor is None or (not spaced and len(word) < 4):
            break
        scale, unit = scale * factor, after.removeprefix("of ").strip()
    if re.fullmatch(r"percent(?:age)?(?: points?)?|per cent|pct", unit, re.IGNORECASE):
        unit = "%"
    return (scale, unit) if not unit or unit == "%" or is_phrase(unit, spaced) else None


def _plain_latex(text: str) -> str:
    """Return canonical text with \\frac of integers as a/b and \\text{} opened; other LaTeX stays and is not read."""
    text = re.sub(r"\\text\{ ?-(?=[A-Za-z])", r"\\text{ ", text)
    match = re.match(r"([+-]?)" + _FRACTION.pattern, text)
    if match:
        negative = "-" in match[1]
        for sign in (match[2], match[4]):
            negative ^= bool(sign)
        text = f"{'-' if negative else ''}{match[3]}/{match[5]}{text[match.end() :]}"
    text = _FRACTION.sub(lambda m: m[0] if m[1] or m[3] else f" {m[2]}/{m[4]}", text)
    text = " ".join(_TEXT.sub(r" \1 ", text).split())
    return re.sub(r" ?\^ ?", "^", re.sub(r"^([+-]) ", r"\1", text)) if "\\text" not in text else text
