"""Constraint rewards: the answer is an expression that must use what the problem gives, and nothing else.

Source: the Countdown task of TinyZero and GRPO-Zero, whose rewards run eval() on the model's text; `evaluate`
here does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from mathgrpo.answers import parse_number
from mathgrpo.arithmetic import evaluate
from mathgrpo.rewards.call_faults import shown
from mathgrpo.rewards.reward import Pay, Row, reward

MAX_NUMBERS = 64
_SEPARATORS = re.compile(r"[\s,;\[\]()]+")


@reward(family="constraint", pay=Pay(0, 1, right=1), columns=("nums", "target"), pays_right=True)
def countdown(row: Row) -> float | None:
    """Return 1 where the answer is an expression that uses each of nums once and makes target, else 0; does not apply
    without nums.

    `nums`: a list or text like "3, 5, 7"; `target`: a number (without it the gold answer). "3 * 5 - 7 = 8" is read as
    the expression before the "=", which must hold.

    Gaming: none known: powers, joined digits, repeated and missing numbers earn 0.
    Source: the Countdown task of TinyZero, without eval.
    """
    return None if row.columns.get("nums") is None else float(row_problem(row) == "")


def row_problem(row: Row) -> str:
    """Return in words why a completion does not solve its problem, "" when it does."""
    nums, target, gold = (row.columns.get(name) for name in ("nums", "target", "answer"))
    return countdown_problem(row.graded.answer, nums, target, gold)


def countdown_problem(answer: str | None, nums: Any, target: Any, gold: Any = None) -> str:
    """Return in words why an answer does not solve a Countdown problem, "" when it does. Never raises."""
    given = read_numbers(nums)
    wanted = _number(gold if target is None else target)
    if not given or wanted is None:
        return "the problem's nums or target cannot be read"
    if answer is None:
        return "there is no single answer block"
    left, _, right = answer.strip().strip("$").partition("=")
    expression = evaluate(left)
    if expression is None or "%" in left:
        return "the answer is no expression of numbers, + - * / and brackets"
    if expression.signed:
        return "a number has a minus sign of its own; only differences of the given numbers count"
    says = evaluate(right)
    if right.strip() and (says is None or says.value != expression.value):
        said = shown(right.strip()[:20], quote=False)
        return f"the answer says that it makes {said}, and it makes {_shown(expression.value)}"
    used = Counter(expression.numbers)
    if used != Counter(given):
        wrong = (used - Counter(given)) or (Counter(given) - used)
        number = next(iter(wrong))
        what = "too often or not given" if used - Counter(given) else "not used"
        return f"{_shown(number)} is {what}"
    return "" if expression.value == wanted else f"it makes {_shown(expression.value)}, not {_shown(wanted)}"


def read_numbers(value: Any) -> list[Fraction] | None:
    """Return the numbers of a list, tuple, array or text, None when one cannot be read."""
    if isinstance(value, str):
        parts: Sequence[Any] = [part for part in _SEPARATORS.split(value) if part]
    elif hasattr(value, "__iter__"):
        parts = list(value)
    else:
        return None
    numbers = [number for part in parts[: MAX_NUMBERS + 1] if (number := _number(part)) is not None]
    return numbers if len(numbers) == len(parts) <= MAX_NUMBERS else None


def _number(value: Any) -> Fraction | None:
    return None if value is None or isinstance(value, bool) else parse_number(str(value))


def _shown(value: Fraction) -> str:
    return str(value) if len(str(value)) <= 20 else "a huge number"
