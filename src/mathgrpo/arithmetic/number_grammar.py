"""How a number is written: ASCII digits, "," between groups of three, a decimal point. Every reader here uses this."""

from __future__ import annotations

import re
from decimal import Context, Decimal, Inexact
from fractions import Fraction

CURRENCY = {"$": "dollar", "£": "pound", "€": "euro", "¥": "yen", "₹": "rupee"}
"""Sign -> name."""

INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
NUMBER = rf"(?:{INTEGER}(?:\.[0-9]+)?|\.[0-9]+)"
"""A number without sign: "1,200", "0.5", ".5". Patterns are for re.ASCII."""

NUMBER_LIKE = r"[0-9][0-9,]*(?:\.[0-9]+)?"
"""What looks like one, so that no part of "1,20" is taken for a number."""

_EXACT = Context(prec=1000, traps=[Inexact])
_PLAIN = re.compile(rf"-?{NUMBER}", re.ASCII)


def plain_number(text: str) -> Fraction | None:
    """Return a number that stands alone, exactly; None for anything else.

    Example:
        >>> plain_number("1,236.0"), plain_number("-.5"), plain_number("1,20"), plain_number("1/3")
        (Fraction(1236, 1), Fraction(-1, 2), None, None)
    """
    return digits_value(text) if _PLAIN.fullmatch(text) else None


def digits_value(text: str) -> Fraction:
    """Return the value of a text that the grammar has matched."""
    return Fraction(text.replace(",", ""))


def number_text(value: Fraction) -> str:
    """Return a number as people write it, exactly: "36" for 36.0, "2.5" for 5/2.

    Raises:
        ValueError: the number has no finite decimal form.
    """
    try:
        quotient = _EXACT.divide(Decimal(value.numerator), Decimal(value.denominator))
    except Inexact:
        raise ValueError(f"{value} has no finite decimal form") from None
    return f"{quotient.normalize(_EXACT):f}"
