"""Whether two LaTeX texts are the same value, by math-verify's grammar and sympy: in the grader's child process only.

sympy can hang and eat memory, so nothing here is called in the trainer's process; `latex_child.py` is. Two expressions
are equal when they are the same tree, or the same number to 45 digits at each of a few fixed points: a test that costs
one evaluation each where simplifying can take seconds, and that no two different answers pass.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

DIGITS = 60
AGREEING_DIGITS = 45
_POINTS = (
    ("1.7320508075", "2.2360679774", "2.6457513110", "3.3166247903", "3.6055512754", "4.1231056256"),
    ("0.5773502691", "0.4472135954", "0.3779644730", "0.3015113445", "0.2773500981", "0.2425356250"),
    ("5.1961524227", "0.2236067977", "3.7416573867", "0.6633249580", "2.1633307652", "1.2369316876"),
    ("-1.3076696830", "1.1447142425", "-0.8997354108", "-2.1055471810", "0.7570929190", "-1.9319396260"),
)
"""Values for the variables, in the order of their names: three times positive, once of both signs."""
POSITIVE = 3
_FAR = tuple(
    tuple(f"{size * (place + 1) + 0.37 * (place + 2):.4f}" for place in range(6))
    for size in (2.5, 7, 18, 41, 97, 260, 1009, 5003)
)
"""Points for functions with steps, which agree where their arguments are small."""


def compare(gold: str, answer: str, relative: str = "", within: str = "") -> str:
    """Return "correct", "wrong", "refused" (the answer), or "bad_gold"; relative and within: see `tolerance.py`."""
    for sign in (" = ", " < "):
        if sign in gold:
            return _compare_relations(gold.split(sign), answer.split(sign), sign.strip())
    gold_value, answer_value = read(gold), read(answer)
    if gold_value is None or _undefined(gold_value):
        return "bad_gold"
    if answer_value is None:
        return "refused"
    if _lost(gold, gold_value) != _lost(answer, answer_value):
        return "wrong"
    same = equal(gold_value, answer_value) or (
        (relative or within) and _near(gold_value, answer_value, relative, within)
    )
    return "correct" if same else "wrong"


def _near(first: Any, second: Any, relative: str, within: str) -> bool:
    """Return whether two constants are as close as these fractions say."""
    from sympy import Rational

    if any(not hasattr(value, "evalf") or value.free_symbols for value in (first, second)):
        return False
    ((mine, its),) = _evaluated(first, second)
    if mine is None or its is None:
        return False
    allowed = max(abs(mine) * float(Rational(relative or 0)), float(Rational(within or 0)))
    return bool(abs(mine - its) <= allowed * (1 + 1e-12))


def _lost(text: str, value: Any) -> set[str]:
    """Return the letters that the grammar did not read: "A^T" without its T is not "A"."""
    letters = set(re.sub(r"\\(?:text\{[^{}]*\}|[a-zA-Z]+)", " ", text).casefold()) & set("abcdefghijklmnopqrstuvwxyz")
    try:
        return letters - set(str(value).casefold()) - set("eid") if hasattr(value, "free_symbols") else set()
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return set()


@lru_cache(maxsize=512)  # a group's answers have one gold
def read(text: str) -> Any:
    """Return the sympy expression of a LaTeX text, None if it is none: its grammar only, which never evals."""
    from math_verify import LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0)]
    found = parse(
        f"\\boxed{{{text}}}", targets, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None
    )
    return found[0] if found else None


def equal(first: Any, second: Any) -> bool:
    """Return whether two sympy objects are the same number, function of their variables, matrix or set."""
    first, second = (value.doit() if getattr(value, "is_Matrix", False) else value for value in (first, second))
    if getattr(first, "is_Matrix", False) or getattr(second, "is_Matrix", False):
        if getattr(first, "shape", None) != getattr(second, "shape", 0):
            return False
        return all(equal(mine, its) for mine, its in zip(first.flat(), second.flat(), strict=True))
    if first == second:
        return True
    if not all(hasattr(value, "evalf") and getattr(value, "is_commutative", False) for value in (first, second)):
        return False
    exact = [_rational(value) for value in (first, second)]
    if exact[0] is not None and exact[1] is not None:
        return bool(exact[0] == exact[1])
    compared = 0
    for mine, its in _evaluated(first, second):
        if mine is None or its is None or (compared >= POSITIVE and (mine.imag or its.imag)):
            continue  # where a variable is negative, the functions are compared if both are real there
        if not _agree(mine, its):
            return False
        compared += 1
    return compared > 0


def _rational(value: Any) -> Any:
    """Return the rational number that a constant works out to, None for any other: 2^{2005} + 1 is not 2^{2005}."""
    if value.free_symbols or not value.is_rational:
        return None
    done = value.doit()
    return done if done.is_Rational else None


def _compare_relations(gold: list[str], answer: list[str], sign: str) -> str:
    """Return whether two equations (or inequalities) differ by a constant factor (a positive one)."""
    if len(gold) != 2 or len(answer) != 2:
        return "wrong"
    values = [read(side) for side in (*gold, *answer)]
    if values[0] is None or values[1] is None:
        return "bad_gold"
    if any(value is None for value in values):
        return "refused"
    if not all(hasattr(value, "evalf") and getattr(value, "is_commutative", False) for value in values):
        return "wrong"
    from sympy import Add, Mul

    first, second = (Add(left, Mul(-1, right)) for left, right in (values[:2], values[2:]))
    ratios = [(mine, its) for mine, its in _evaluated(first, second) if mine is not None and its is not None]
    if len(ratios) < 2 or any(not mine or not its for mine, its in ratios):
        return "correct" if values[:2] == values[2:] else "wrong"
    factors = [its / mine for mine, its in ratios]
    same = all(_agree(factors[0], factor) for factor in factors[1:])
    return "correct" if same and (sign == "=" or factors[0].real > 0) else "wrong"


def _evaluated(first: Any, second: Any) -> list[tuple[Any, Any]]:
    """Return both expressions at each point as numbers of 60 digits, None where one is none there."""
    from sympy import I, Mod, Symbol, ceiling, floor
    from sympy.core.function import AppliedUndef

    pair = [first, second]
    for number, value in enumerate(pair):
        calls = {call: Symbol(str(call)) for call in value.atoms(AppliedUndef)}
        pair[number] = value.xreplace(calls | _real_roots(value))
    symbols = pair[0].free_symbols | pair[1].free_symbols
    names = sorted({symbol.name for symbol in symbols} - {"i"})
    found = []
    steps = any(value.has(floor, ceiling, Mod) for value in pair)
    for point in (_FAR * steps + _POINTS) if names else _POINTS[:1]:
        values = {symbol: I if symbol.name == "i" else _value(point, names.index(symbol.name)) for symbol in symbols}
        found.append((_number(pair[0], values), _number(pair[1], values)))
    return found


def _real_roots(value: Any) -> dict[Any, Any]:
    """Return the odd roots of negative numbers as the real ones that schools mean: the cube root of -8 is -2."""
    from sympy import Pow, Rational

    powers = [
        power for power in value.atoms(Pow) if isinstance(power.exp, Rational) and power.exp.q % 2 and power.exp.q > 1
    ]
    negative = [power for power in powers if power.base.is_number and power.base.is_negative]
    return {power: (-1) ** power.exp.p * Pow(-power.base, power.exp) for power in negative}


def _value(point: tuple[str, ...], place: int) -> Any:
    from sympy import Rational

    return Rational(point[place % len(point)]) + place // len(point)


def _number(value: Any, values: dict[Any, Any]) -> Any:
    """Return an expression as an mpmath number where its variables have these values, None where it has none.

    What evaluates to zero without a single certain digit is zero: no more digits are asked of it.
    """
    import mpmath

    with mpmath.workdps(DIGITS):
        try:
            number = value.xreplace(values).evalf(DIGITS, maxn=2 * DIGITS)
        except (ValueError, TypeError, ArithmeticError, AttributeError):
            return None
        if (
            not getattr(number, "is_number", False)
            or number.is_finite is False
            or not number.is_comparable | number.is_complex
        ):
            return None
        real, imaginary = (_certain(part) for part in number.as_real_imag())
        return None if real is None or imaginary is None else mpmath.mpc(real, imaginary)


def _certain(part: Any) -> Any:
    import mpmath

    if not (part.is_Float or part.is_Rational):
        return None
    if part.is_Float and part._prec < 8:
        return mpmath.mpf(0)
    return mpmath.mpf(part.p) / part.q if part.is_Rational else mpmath.mpf(part._mpf_)


def _agree(first: Any, second: Any) -> bool:
    import mpmath

    with mpmath.workdps(DIGITS):
        return bool(abs(first - second) <= mpmath.mpf(10) ** -AGREEING_DIGITS * max(abs(first), abs(second)))


def _undefined(value: Any) -> bool:
    """Return whether a value is no number at all: 1/0, 0/0."""
    from sympy import nan, zoo

    return bool(getattr(value, "has", None) and value.has(nan, zoo))
