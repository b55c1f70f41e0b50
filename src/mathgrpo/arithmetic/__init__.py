"""Numbers, sums and equations as people write them: read exactly, without eval, in time linear in the text."""

from __future__ import annotations

from mathgrpo.arithmetic.equations import numbers_in, read_equations
from mathgrpo.arithmetic.expressions import Expression, Operation, evaluate
from mathgrpo.arithmetic.number_grammar import number_text, plain_number

__all__ = [
    "Expression",
    "Operation",
    "evaluate",
    "number_text",
    "numbers_in",
    "plain_number",
    "read_equations",
]
