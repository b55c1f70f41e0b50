"""Worked solutions: the answer column of GSM8K, and prose cut down to its arithmetic."""

from __future__ import annotations

import itertools
import re

from mathgrpo.arithmetic import Operation, evaluate, number_text, plain_number
from mathgrpo.arithmetic.equations import ANNOTATION
from mathgrpo.arithmetic.number_grammar import NUMBER_LIKE

_UNIT_SLASH = re.compile(r"/(?=[A-Za-z])")
_TOKEN = re.compile(rf"{NUMBER_LIKE}|[-+*/×()%]|(?<=\s)x(?=\s)", re.ASCII)
_SIGNS = {"×": "*", "x": "*"}


def clean_answer(answer: str) -> str | None:
    """Return a gold answer in plain form ("36" for "36.0"), or None when it is not a finite decimal number.

    Example:
        >>> clean_answer("1,236.0"), clean_answer("1/3")
        ('1236', None)
    """
    value = plain_number(answer.strip())
    return None if value is None else number_text(value)


def worked_steps(solution: str, answer: str) -> tuple[Operation, ...] | None:
    """Return the arithmetic of a prose solution as two-operand steps, or None when it does not hold together.

    None means: a line whose two sides differ (rounded, say), an expression this reader does not know, no step at
    all, or a last result that is not the answer.

    Example:
        >>> [str(s) for s in worked_steps("Cost: 2 pens * £3 + £4 = £10\\n#### 10", "10")]
        ['2*3=6', '6+4=10']
    """
    steps: list[Operation] = []
    for line in solution.split("####")[0].splitlines():
        found = _line_steps(line)
        if found is None:
            return None
        steps.extend(step for step in found if step not in steps)
    return tuple(steps) if steps and steps[-1].result == plain_number(answer.strip()) else None


def steps_text(steps: tuple[Operation, ...]) -> str:
    """Return steps as a solution, one to a line."""
    return "\n".join(str(step) for step in steps)


def _line_steps(line: str) -> list[Operation] | None:
    """Return the steps of every equation in a line; None when one of them cannot be read or is false."""
    if "=" not in line:
        return []
    steps: list[Operation] = []
    for left, right in itertools.pairwise(map(_last_expression, _UNIT_SLASH.sub(" ", line).split("="))):
        if len(left) < 3:
            continue
        expression = evaluate(" ".join(left))
        if not right or expression is None or expression.bracketed or expression.signed or "%" in left:
            return None
        done = sorted(expression.operations, key=lambda step: step.sign in "+-")  # products before sums
        if expression.value != plain_number(right[0]) or not all(map(_is_written, done)):
            return None
        steps += done
    return steps


def _is_written(step: Operation) -> bool:
    """Return whether every number of a step ends."""
    try:
        return bool(str(step))
    except ValueError:
        return False


def _last_expression(text: str) -> list[str]:
    """Return the numbers and signs of the last expression in a piece of prose, words dropped.

    Two numbers with only words between them start a new expression at the second. More is dropped than
    `read_equations` does, since a solution's last result is compared with its gold.
    """
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        token = _SIGNS.get(token, token)
        if token[0].isdigit():
            if tokens and tokens[-1][0].isdigit():
                tokens = []
            tokens.append(token.replace(",", ""))
        elif (token in "+-*/" and tokens and tokens[-1][0].isdigit()) or token in "()%":
            tokens.append(token)
    return tokens


MARKER = "####"
HUB_ID = "openai/gsm8k"
HUB_SUBSET = "main"


def split_answer(text: str) -> tuple[str, str | None] | None:
    """Return gold answer and cleaned solution of a GSM8K-shaped answer column; None when it is not one.

    It is one when a single line of text follows the last marker. The gold keeps its comma and sign as written; the
    solution is None when the marker comes first.

    Example:
        >>> split_answer("She sold 48/2 = <<48/2=24>>24 clips.\\n#### 1,200")
        ('1,200', 'She sold 48/2 = 24 clips.')
        >>> split_answer("18")
    """
    before, marker, after = text.rpartition(MARKER)
    gold = after.strip()
    if not marker or not gold or len(gold.splitlines()) > 1:
        return None
    return gold, clean_solution(before) or None


def clean_solution(text: str) -> str:
    """Return a solution without the calculator annotations and without spaces at line ends.

    Example:
        >>> clean_solution("2 pens cost 2*3=$<<2*3=6>>6. \\n")
        '2 pens cost 2*3=$6.'
    """
    return "\n".join(line.rstrip() for line in ANNOTATION.sub("", text).strip().splitlines())
