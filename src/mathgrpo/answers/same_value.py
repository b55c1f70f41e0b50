"""Whether two values are the same: units agree or convert, numbers are compared exactly, the rest by algebra.

A per cent sign is a unit; what it means for a gold without one, the question says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mathgrpo.answers.latex import latex_verdict
from mathgrpo.answers.plain_forms import Form
from mathgrpo.answers.question_asks import asked_scale, asked_unit, asks_percentage, counts, mentioned_units
from mathgrpo.answers.tolerance import EXACT, Tolerance
from mathgrpo.answers.units import SCALES, Unit, convertible, is_known, read_unit, stem, words_of
from mathgrpo.types import Verdict

_CAPITALS = re.compile(r"(?<![A-Za-z\\])[A-Z]{2,}(?![A-Za-z])")
_SUBSCRIPT = re.compile(r"[0-9]+_\{?[0-9]+")
"""A number in a base within an expression, of which the computer algebra would drop the base."""
_DECIMAL = re.compile(r"(?<![0-9_.{])([0-9]{0,30})\.([0-9]{1,30})(?![0-9.])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """What answer and gold are compared under.

    Attributes:
        question: of the problem, "" when it is not known.
        gold: its text, whose words are units too.
        tolerance: how far two values may be apart.
    """

    question: str = ""
    gold: str = ""
    tolerance: Tolerance = EXACT


def rule_of(form: Form) -> str:
    """Return the short name of the rule that decides on a form."""
    return form.kind if form.kind != "value" else "number" if form.number is not None else "latex"


def verdict_on(outcome: str, answer: Form, why: str) -> Verdict:
    """Return a verdict with what was read of an answer."""
    return Verdict(outcome, answer.text, rule_of(answer), why)  # type: ignore[arg-type]


def same_if(equal: bool, answer: Form, why: str) -> Verdict:
    return verdict_on("correct", answer, "the same as the gold") if equal else verdict_on("wrong", answer, why)


def bare(text: str) -> str:
    return re.sub(r"\s|\\[,;:!]", "", text)


def same_value(answer: Form, gold: Form, asked: Asked) -> Verdict:
    """Return the verdict on a value against a value."""
    if gold.marks != "%" and read_unit(gold.marks, words_of(gold.marks)) is None:
        return verdict_on("error", answer, f"the gold has no unit behind its number: {gold.marks!r}")
    if answer.marks == "%" and gold.marks != "%" and read_unit(gold.marks, words_of(gold.marks)) == {}:
        worth: Fraction | None = Fraction(1) if asks_percentage(asked.question) else Fraction(1, 100)
    elif answer.marks == gold.marks or "%" in (answer.marks, gold.marks):
        worth = Fraction(1) if answer.marks in ("", gold.marks) else None
    else:
        unit = read_unit(answer.marks, _context(asked))
        if unit is None:
            return verdict_on("wrong", answer, f"no unit known here: {answer.marks!r}")
        worth = _worth(unit, gold, asked)
    if worth is None:
        return verdict_on("wrong", answer, "another unit than the gold's or the one asked for")
    if answer.number is not None and gold.number is not None:
        return _same_number(answer, gold, answer.number.value * worth, asked)
    if worth == 1 and bare(answer.text) == bare(gold.text):
        return verdict_on("correct", answer, "the same text as the gold")
    if any(sorted(kind.findall(answer.text)) != sorted(kind.findall(gold.text)) for kind in (_CAPITALS, _SUBSCRIPT)):
        return verdict_on("wrong", answer, "other letters than the gold's")
    mine = for_algebra(_stripped(answer))
    its = for_algebra(_stripped(gold))
    mine = mine if worth == 1 else f"\\frac{{{worth.numerator}}}{{{worth.denominator}}}({mine})"
    return latex_verdict(mine, its, **asked.tolerance.for_algebra(answer.text, gold.text))


def _stripped(form: Form) -> str:
    number = form.number
    if number is None:
        return form.text
    value = number.value
    return str(value.numerator) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _same_number(answer: Form, gold: Form, value: Fraction, asked: Asked) -> Verdict:
    assert answer.number is not None and gold.number is not None
    equal = value == gold.number.value
    scale = answer.number.scale
    if not equal and scale != 1:
        words = {stem(word) for word, factor in SCALES.items() if factor == scale}
        equal = value / scale == gold.number.value and bool(words & asked_scale(asked.question))
    if not equal and asked.tolerance is not EXACT:
        equal = abs(value - gold.number.value) <= asked.tolerance.distance(gold.number.value, answer.text, gold.text)
    return same_if(equal, answer, "another number than the gold")


def _context(asked: Asked) -> frozenset[str] | None:
    return words_of(f"{asked.question} {asked.gold}") if re.search("[A-Za-z]", asked.question) else None


def _worth(unit: Unit, gold: Form, asked: Asked) -> Fraction | None:
    """Return what one of the answer's unit is in the gold's or, where the gold has none, in the one asked for."""
    its = read_unit(gold.marks, words_of(gold.marks)) or {}
    real = {base for base in unit if is_known(base)}
    if its or not real or not re.search("[A-Za-z]", asked.question):
        return convertible(unit, its)
    wanted = asked_unit(asked.question)
    if wanted is not None:
        return convertible(unit, wanted)
    mentioned = [(base, power, worth) for base, power, worth in mentioned_units(asked.question) if base in real]
    if not mentioned:
        return None if counts(asked.question) else Fraction(1)
    same_power = [worth for base, power, worth in mentioned if len(unit) > 1 or unit[base][0] % power == 0]
    if len(unit) > 1 or any(unit[base][1] == worth ** (unit[base][0] // power) for base, power, worth in mentioned):
        return Fraction(1)
    base, power, worth = mentioned[0]
    return unit[base][1] / worth ** (unit[base][0] // power) if same_power else Fraction(1)


def for_algebra(text: str) -> str:
    """Return canonical text for the computer algebra: decimals exactly, degrees as radians, primes and E as names."""
    text = re.sub(r"\^([0-9A-Za-z])", r"^{\1}", text)
    text = re.sub(r"(?<![0-9._}!A-Za-z)])([0-9]+) ?/ ?([0-9]+)(?![0-9.!^])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<![A-Za-z\\])([EI])(?:_\{?([A-Za-z0-9]+)\}?)?(?![A-Za-z])", r"x_{\1\2}", text)
    text = re.sub(r"([A-Za-z])(?:'|\^\{?\\prime\}?)", r"\1_{p}", text)
    text = _DECIMAL.sub(lambda m: f"(\\frac{{{int((m[1] + m[2]) or '0')}}}{{{10 ** len(m[2])}}})", text)
    return text.replace("°", " \\cdot \\frac{\\pi}{180} ").replace("%", "\\cdot \\frac{1}{100} ")
