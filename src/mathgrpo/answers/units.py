"""What may stand behind a number in an answer: a unit, and nothing that changes its value."""

from __future__ import annotations

import re

from mathgrpo.arithmetic.number_grammar import CURRENCY

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
