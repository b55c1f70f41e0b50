"""Answers close to a gold that are not it: what a sound grader refuses and a loose one pays for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from mathgrpo.answers.numbers import read_quantity
from mathgrpo.arithmetic import number_text

_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_FRACTION = re.compile(r"\\[dtc]?frac\{([^{}]+)\}\{([^{}]+)\}")
_CHOICE = re.compile(r"(?<![A-Za-z\\])[A-E](?![A-Za-z])")
_NAME = re.compile(r"[A-Za-z]{3,}")


def near_misses(gold: str) -> dict[str, str]:
    """Return wrong answers by how they were made of the gold; a gold that is neither number nor LaTeX has few.

    Example:
        >>> near_misses("18")["one more"], near_misses("(1,2)")["a number changed"]
        ('19', '(1,3)')
    """
    quantity = read_quantity(gold)
    made = _numbers(quantity.value) if quantity is not None else _expressions(gold)
    return {kind: text for kind, text in made if text.strip() != gold.strip()}


def _numbers(value: Fraction) -> Iterator[tuple[str, str]]:
    """Yield numbers that are not this one, as text."""
    if value.denominator > 1 and not _is_decimal(value):
        top, under = value.numerator, value.denominator
        yield "one more", f"{top + under}/{under}"
        yield "sign flipped", f"{-top}/{under}"
        if abs(top) > 1:
            yield "fraction turned over", f"{-under if top < 0 else under}/{abs(top)}"
        yield "cut to two decimals", f"{top / under:.2f}"
        return
    text = number_text(value)
    yield "one more", number_text(value + 1)
    yield "five percent off", number_text(value * Fraction(21, 20) if value else Fraction(1, 20))
    yield "a digit behind", f"{text}7" if "." in text else f"{text}.7"
    yield "a digit more in front", f"-1{text[1:]}" if text.startswith("-") else f"1{text}"
    if value:
        yield "sign flipped", number_text(-value)
        yield "a hundred times", number_text(value * 100)
        yield "a hundredth", number_text(value / 100)
        yield "in thousands", f"{text} thousand"
    digits = text.lstrip("-")
    if len(digits) > 1 and digits.isdigit():
        yield "first digits only", text[:-1]
        yield "last digits only", str(int(digits[1:]))
        if (turned := digits[::-1]) != digits and not turned.startswith("0"):
            yield "digits turned round", turned


def _is_decimal(value: Fraction) -> bool:
    try:
        number_text(value)
    except ValueError:
        return False
    return True


def _expressions(gold: str) -> Iterator[tuple[str, str]]:
    """Yield LaTeX and words that are not this gold, each by one change that cannot leave its value."""
    found = list(_DIGITS.finditer(gold))
    if found:
        first, last = found[0], found[-1]
        yield "a number changed", f"{gold[: last.start()]}{int(last[0][-15:]) + 1}{gold[last.end() :]}"
        if len(found) > 1:
            yield "another number changed", f"{gold[: first.start()]}{int(first[0][-15:]) + 2}{gold[first.end() :]}"
        yield "a number from it alone", str(int(last[0][-15:]) + 1)
    fraction = _FRACTION.search(gold)
    if fraction and fraction[1] != fraction[2]:
        turned = f"\\frac{{{fraction[2]}}}{{{fraction[1]}}}"
        yield "fraction turned over", f"{gold[: fraction.start()]}{turned}{gold[fraction.end() :]}"
    choice = _CHOICE.fullmatch(gold.strip("(){} ").removeprefix("\\text{").strip("() ")) if not found else None
    if choice:
        letter = choice[0]
        yield "another choice", gold.replace(letter, "B" if letter == "A" else chr(ord(letter) - 1))
    if not found and not choice and _NAME.search(gold):
        yield "another word", "\\text{none of these}"
    yield "with a term added", f"{gold} + 1" if not choice and "text" not in gold else "1"
