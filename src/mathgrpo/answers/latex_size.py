"""How large expressions become when they are put together: bounds, never values.

A bound is a little too large rather than too small. What crosses a limit raises `Refused`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

MAX_DIGITS = 6000
"""Decimal digits of a number on the way, numerator and denominator together."""
MAX_TERMS = 250
"""Terms of a polynomial on the way, multiplied out."""
MAX_DEGREE = 2500
MAX_FACTORIAL = 2100
MAX_CHOICES_DIGITS = 100
MAX_ROOT = 100
MAX_ROOT_IN_EXPONENT = 10**6

_DIGITS = re.compile(r"([0-9]*)\.?([0-9]*)(?:[eE]([-+]?[0-9]+))?", re.ASCII)


class Refused(Exception):
    """Its text is what an expression has too much of."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bounds of an expression.

    Attributes:
        top: log10 of the largest absolute value that it can have; a symbol counts as 1.
        bottom: log10 of the least one, unless it is 0.
        digits: of numerator and denominator together.
        whole: it has no denominator.
        terms, degree: of the polynomial in its atoms, multiplied out.
        atoms: what in it does not become one number with the rest: symbols, roots, functions.
        rows: of a matrix; 0 for what is none.
    """

    top: float = 0.0
    bottom: float = 0.0
    digits: float = 0.0
    whole: bool = True
    terms: int = 1
    degree: float = 0.0
    atoms: frozenset[str] = frozenset()
    rows: int = 0


ONE = Size()


def number_size(token: str) -> Size:
    """Return the size of a number as it is written, separators and "1e9" too."""
    whole, decimals, shift = _DIGITS.fullmatch(re.sub(r"[^0-9.eE+-]", "", token)).groups()  # type: ignore[union-attr]
    value, raised = int((whole + decimals) or "0"), float(shift or 0)
    digits = math.log10(value) if value else 0.0
    top = digits - len(decimals) + raised if value else 0.0
    return _checked(Size(top, top, digits + len(decimals) + abs(raised), whole=not decimals and raised >= 0))


def sum_size(left: Size, right: Size) -> Size:
    """Return the size of a sum or a difference."""
    digits = max(left.digits, right.digits) if left.whole and right.whole else left.digits + right.digits
    atoms = left.atoms | right.atoms
    return _checked(
        Size(
            max(left.top, right.top) + 0.31, -digits - 0.31, digits + 0.31, left.whole and right.whole,
            left.terms + right.terms if atoms else 1, max(left.degree, right.degree), atoms, max(left.rows, right.rows),
        )
    )  # fmt: skip


def product_size(left: Size, right: Size) -> Size:
    """Return the size of a product."""
    if left is ONE or right is ONE:
        return left if right is ONE else right
    return _joined(left, right, left.top + right.top, left.bottom + right.bottom, left.whole and right.whole)


def quotient_size(left: Size, right: Size) -> Size:
    """Return the size of a quotient."""
    return _joined(left, right, left.top - right.bottom, left.bottom - right.top, False)


def _joined(left: Size, right: Size, top: float, bottom: float, whole: bool) -> Size:
    degree, atoms = left.degree + right.degree, left.atoms | right.atoms
    terms = min(left.terms * right.terms, _most_terms(degree, len(atoms)))
    return _checked(
        Size(top, bottom, left.digits + right.digits, whole, terms, degree, atoms, max(left.rows, right.rows))
    )


def power_size(base: Size, exponent: Size) -> Size:
    """Return the size of a power; the exponent's sign does not matter."""
    if not (base.digits or base.atoms):  # 1, -1, 0
        return base
    how = "an exponent that makes "
    if exponent.top > 6:
        raise Refused(f"{how}a number of more than {MAX_DIGITS} digits" if base.digits else f"{how}too high a degree")
    times = 10**exponent.top
    reach = max(abs(base.top), abs(base.bottom)) * times
    degree, atoms = max(base.degree * times, float(bool(base.atoms))), base.atoms | exponent.atoms
    if not exponent.whole:
        atoms |= {"root"}
        if exponent.digits - exponent.top > 2 * math.log10(MAX_ROOT_IN_EXPONENT):  # of a fraction both parts are digits
            raise Refused(f"an exponent with a denominator over {MAX_ROOT_IN_EXPONENT:,}")
    count = max(1, math.ceil(times))
    terms = _choices(count + base.terms - 1, base.terms - 1)
    if base.rows and base.atoms:
        terms = (base.rows * base.terms) ** min(count, 20)
    digits = (base.digits + (math.log10(base.rows) if base.rows else 0)) * max(times, 1)
    terms = min(terms, _most_terms(degree, len(atoms)))
    return _checked(Size(reach, -reach, digits, False, terms, degree, atoms, base.rows), how)


def factorial_size(base: Size) -> Size:
    """Return the size of a factorial."""
    number = 10 ** min(base.top, 9)
    if number > MAX_FACTORIAL * 1.001:
        raise Refused(f"a factorial of more than {MAX_FACTORIAL}")
    digits = math.lgamma(number + 1) / math.log(10)
    return replace(base, top=digits, bottom=-digits, digits=base.digits + digits, terms=1)


def choice_size(of: Size, chosen: Size) -> Size:
    """Return the size of a binomial coefficient."""
    digits = min(10 ** min(of.top, 9) * 0.302, 10 ** min(chosen.top, 9) * max(of.top, 0.31))
    if digits > MAX_CHOICES_DIGITS:
        raise Refused(f"a binomial coefficient of more than {MAX_CHOICES_DIGITS} digits")
    return _checked(Size(digits, 0.0, digits + of.digits, True, 1, of.degree, of.atoms | chosen.atoms))


def root_size(order: Size, radicand: Size, name: str) -> Size:
    """Return the size of a root, which counts as a symbol of this name."""
    if order.top > math.log10(MAX_ROOT):
        raise Refused(f"a root of an order over {MAX_ROOT}")
    lowest = min(radicand.bottom, 0.0)
    return replace(radicand, terms=1, degree=1.0, atoms=frozenset([name]), bottom=lowest, rows=0)


def _most_terms(degree: float, atoms: int) -> int:
    """Return how many terms a polynomial can have at most."""
    return _choices(math.ceil(min(degree, MAX_DEGREE)) + atoms, atoms) if atoms else 1


def _choices(number: int, chosen: int) -> int:
    """Return a binomial coefficient, or some number over the limit."""
    value = 1
    for step in range(1, min(chosen, number - chosen) + 1):
        value = value * (number - min(chosen, number - chosen) + step) // step
        if value > MAX_TERMS**2:
            break
    return value


def _checked(size: Size, how: str = "") -> Size:
    if size.digits > MAX_DIGITS or size.top > MAX_DIGITS:
        raise Refused(f"{how}a number of more than {MAX_DIGITS} digits")
    if size.terms > MAX_TERMS:
        raise Refused(f"{how}a polynomial of more than {MAX_TERMS} terms")
    if size.degree > MAX_DEGREE:
        raise Refused(f"{how}a polynomial of a degree over {MAX_DEGREE}")
    return size
