"""The arithmetic claims of a text: every equation in which a side computes something, and whether it is true.

Plain arithmetic is read exactly and in this process (`mathgrpo.arithmetic`). A line that is still LaTeX after that, or
has a power, is put to math-verify in its killable child process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mathgrpo.answers.latex import latex_verdict
from mathgrpo.arithmetic.equations import EQUALS, bare_line, numbers_in, plain_line, read_equations
from mathgrpo.arithmetic.expressions import Expression, evaluate

MAX_LINES = 200
MAX_LINE_CHARS = 400
MAX_LATEX_LINES = 4
"""Lines of one text that are put to the child process; each may cost its wall limit."""
ROUNDED_DECIMALS = 2
"""From so many decimals on, a result may be rounded: 10 / 3 = 3.33."""

_MATH = re.compile(r"\$([^$\n]{1,300})\$|\\\(([^\n]{1,300}?)\\\)|\\\[([^\n]{1,300}?)\\\]")
_POWERS_ONLY = re.compile(r"[0-9+\-*/^(). ]+=[0-9+\-*/^(). ]+", re.ASCII)
_DECIMALS = re.compile(r"\.([0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim that can be checked.

    Attributes:
        text: as read, "48/2 = 24".
        true: it holds, exactly or as rounded.
        operands: the numbers that it computes with.
        result: the number that it says comes out.
    """

    text: str
    true: bool
    operands: tuple[Fraction, ...]
    result: Fraction


def read_claims(text: str) -> list[Claim]:
    """Return the claims of a text in order; of a very long one, those of its first lines. Never raises.

    Example:
        >>> [(claim.text, claim.true) for claim in read_claims("She sold 48/2 = 24 in May.\\nIn all 48 + 24 = 71.")]
        [('48/2 = 24', True), ('48 + 24 = 71', False)]
    """
    claims: list[Claim] = []
    latex_left = MAX_LATEX_LINES
    for line in text.splitlines()[:MAX_LINES]:
        if "=" not in line or len(line) > MAX_LINE_CHARS:
            continue
        plain = plain_line(line)
        if "\\" not in plain and "^" not in plain:
            found = ((_claim(e.left, e.right), e.goes_on) for e in read_equations(plain))
            claims += [claim for claim, goes_on in found if claim and (claim.true or not goes_on)]
        elif latex_left:
            latex_left -= 1
            claims += _latex_claim(line)
    return claims


def _claim(left_text: str, right_text: str) -> Claim | None:
    """Return the claim that two expressions are equal; None when one is none or neither computes."""
    left, right = evaluate(left_text), evaluate(right_text)
    if left is None or right is None or not (left.operations or right.operations):
        return None
    true = left.value == right.value or _rounds_to(left, right, right_text) or _in_percent(left_text, right_text)
    if not (true or left.operations):
        return None  # prose: "16 students drank 2 quarts = 16 * 2"
    computed, result = (left, right.value) if left.operations else (right, left.value)
    operands = computed.numbers if not (left.operations and right.operations) else left.numbers + right.numbers
    return Claim(f"{left_text} = {right_text}", true, operands, result)


def _in_percent(left_text: str, right_text: str) -> bool:
    """Return whether two sides are equal once the per cent sign is only a unit: 100 - 60 = 40%."""
    if ("%" in left_text) == ("%" in right_text):
        return False
    left, right = evaluate(left_text.replace("%", "")), evaluate(right_text.replace("%", ""))
    return left is not None and right is not None and left.value == right.value


def _rounds_to(exact: Expression, written: Expression, text: str) -> bool:
    decimals = _DECIMALS.search(text)
    if written.operations or decimals is None or len(decimals[1]) < ROUNDED_DECIMALS:
        return False
    return abs(exact.value - written.value) <= Fraction(1, 2 * 10 ** len(decimals[1]))


def _latex_claim(line: str) -> list[Claim]:
    """Return the claim of a line of LaTeX, judged by math-verify; nothing where it is not one plain equation."""
    spans = [next(filter(None, match.groups())) for match in _MATH.finditer(line)]
    bare = bare_line(line).strip().rstrip(".")
    equations = [span for span in spans if len(EQUALS.findall(span)) == 1]
    if not spans and ("\\" in bare or _POWERS_ONLY.fullmatch(bare)) and len(EQUALS.findall(bare)) == 1:
        equations = [bare]
    for equation in equations[:1]:
        left, right = (side.strip() for side in EQUALS.split(equation))
        result = evaluate(plain_line(right).strip())
        verdict = latex_verdict(left, right) if result is not None and left and right else "refused"
        if result is not None and verdict in ("correct", "wrong"):
            return [Claim(f"{left} = {right}", verdict == "correct", tuple(numbers_in(left)), result.value)]
    return []
