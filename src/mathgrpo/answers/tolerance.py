"""How far apart two values may be and still be the same, by name: "exact", "rounded" or "relative:1e-3"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mathgrpo.errors import UserError

LEAST_DIGITS = 3
"""Significant digits that a decimal must show for "rounded": 1.4 is not the square root of 2, 1.41 is."""
WIDEST = Fraction(1, 20)

_SHOWN = re.compile(r"[+-]?\$?([0-9,]*)\.([0-9]+)(?![0-9])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A tolerance: relative to the second value, or half a unit of the last digit that a decimal shows."""

    relative: Fraction = Fraction(0)
    rounded: bool = False

    def distance(self, value: Fraction, *texts: str) -> Fraction:
        """Return how far from a value another may be."""
        return max(self.relative * abs(value), self._half_digit(texts))

    def for_algebra(self, *texts: str) -> dict[str, str]:
        """Return what the grader's child is told; nothing when the comparison is exact."""
        told = {"relative": self.relative, "within": self._half_digit(texts)}
        return {name: str(size) for name, size in told.items() if size}

    def _half_digit(self, texts: tuple[str, ...]) -> Fraction:
        shown = [match for match in map(_SHOWN.match, texts) if match and self.rounded]
        digits = [
            match[2] for match in shown if len((match[1] + match[2]).replace(",", "").lstrip("0")) >= LEAST_DIGITS
        ]
        return max((Fraction(1, 2 * 10 ** len(places)) for places in digits), default=Fraction(0))


EXACT = Tolerance()


def tolerance_of(name: str) -> Tolerance:
    """Return a tolerance by its name.

    Example:
        >>> tolerance_of("relative:1e-3").relative
        Fraction(1, 1000)

    Raises:
        UserError: there is no such tolerance, or it is wider than 1/20.
    """
    kind, _, size = name.partition(":")
    if name in ("exact", "rounded"):
        return EXACT if name == "exact" else Tolerance(rounded=True)
    try:
        relative = Fraction(size) if kind == "relative" and len(size) < 30 else None
    except (ValueError, ZeroDivisionError):
        relative = None
    if relative is None or not 0 < relative <= WIDEST:
        raise UserError(
            f'tolerance="{name[:40]}": use "exact", "rounded" or "relative:X" with X above 0 and up to '
            f"{float(WIDEST):g}, such as relative:1e-3"
        )
    return Tolerance(relative=relative)
