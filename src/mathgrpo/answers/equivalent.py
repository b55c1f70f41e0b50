"""Whether two answers are the same, for rewards and scripts of the user's own."""

from __future__ import annotations

from mathgrpo.answers.against_gold import compared
from mathgrpo.answers.tolerance import tolerance_of


def equivalent(a: str, b: str, *, tolerance: str = "exact", question: str = "") -> bool:
    """Return whether two answers are the same, whichever is the gold; False when either is not read.

    Args:
        a: an answer: a number with or without a unit, LaTeX, a list, an interval, words.
        b: the other.
        tolerance: "exact"; "rounded": a decimal of at least three digits may be the other value rounded to as many
            places; "relative:1e-3": values may differ by a thousandth of one of them.
        question: tells whether a percentage, a unit or a base was asked for.

    Example:
        >>> equivalent("\\\\frac{1}{2}", "0.5"), equivalent("(1, 2)", "[1, 2]"), equivalent("500 cents", "$5")
        (True, False, True)
        >>> equivalent("3.14", "\\\\pi"), equivalent("3.14", "\\\\pi", tolerance="rounded")
        (False, True)

    Raises:
        UserError: there is no such tolerance, or math-verify is not installed.
    """
    allowed = tolerance_of(tolerance)
    if not a.strip() or not b.strip():
        return False
    return compared(a, b, question, allowed) == "correct" or compared(b, a, question, allowed) == "correct"
