"""An answer and a gold answer are compared: as numbers with units, else as LaTeX.

A gold that is a number is compared exactly, in this process, and only with an answer that is one number. Any other
gold is LaTeX and goes to math-verify in a child process (`latex.py`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from mathgrpo.answers.latex import latex_gold_problem, latex_verdict
from mathgrpo.answers.numbers import MAX_NUMBER_CHARS, Quantity, read_quantity, units_agree, unwrap
from mathgrpo.types import Verdict

_PERCENT_WORD = re.compile(r"(?<![0-9])(?<![0-9] )(?:\bpercent|\bper cent|%)", re.IGNORECASE)
_LAST_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=\S)")
_BASE_SUBSCRIPT = re.compile(r"[0-9]\s*_")
_ENVIRONMENT = re.compile(r"\\(?:begin|end|operatorname|mathbb|mathcal)\s*\{[^{}]*\}")
_TEXT_GROUP = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{[^{}]*\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|or|is|to|n/a)(?![A-Za-z])", re.IGNORECASE)
_DIGIT_LIST = re.compile(r"[0-9.,\s]+", re.ASCII)
_LISTED = re.compile(r"-?[0-9.]+(?:, -?[0-9.]+)+", re.ASCII)


EQUAL, UNEQUAL = "the same number as the gold", "another number than the gold"


def compared(answer: str, gold: str, question: str) -> Verdict:
    """Return the verdict on an answer that is not empty, see `grade`."""
    gold_quantity = read_quantity(gold)
    if gold_quantity is None:
        return _compared_as_latex(unwrap(answer.strip()).strip(), unwrap(gold.strip()).strip())
    quantity = read_quantity(answer)
    if quantity is None:
        return Verdict("refused", answer, "number", "the gold is a number, and this is not read as one")
    same = _same(quantity, gold_quantity, question)
    return Verdict("correct", answer, "number", EQUAL) if same else Verdict("wrong", answer, "number", UNEQUAL)


def _same(answer: Quantity, gold: Quantity, question: str) -> bool:
    if answer.unit == "%" and gold.unit != "%":
        share = answer.value if asks_percentage(question) else answer.value / Fraction(100)
        return share == gold.value
    return answer.value == gold.value and units_agree(answer.unit, gold.unit)


def asks_percentage(question: str) -> bool:
    """Return whether a question's last sentence asks for a percentage ("20% off" does not ask).

    Example:
        >>> asks_percentage("He ate 3 of 4. What percent did he eat?"), asks_percentage("What is 20% of 5?")
        (True, False)
    """
    return _PERCENT_WORD.search(_LAST_SENTENCE.split(question.strip())[-1]) is not None


def _compared_as_latex(answer: str, gold: str) -> Verdict:
    if _shape_problem(gold) is not None:
        return Verdict("error", answer, "latex", "the gold cannot be graded")
    if answer == gold:
        return Verdict("correct", answer, "text", "the same text as the gold")
    # math-verify drops the base of "10_2" and the unit of "5\text{ cm}": there only the same text is the same answer.
    if _BASE_SUBSCRIPT.search(gold) or _BASE_SUBSCRIPT.search(answer):
        same = "".join(answer.split()) == "".join(gold.split())
        if same:
            return Verdict("correct", answer, "text", "the same digits and base as the gold")
        return Verdict("wrong", answer, "text", "other digits or another base than the gold")
    texts, gold_texts = _text_groups(answer), _text_groups(gold)
    if texts and gold_texts and texts != gold_texts:
        return Verdict("wrong", answer, "text", "another text than the gold's")
    return latex_verdict(answer, gold)


def _text_groups(text: str) -> list[str]:
    return ["".join(group.split("{", 1)[1].split()) for group in _TEXT_GROUP.findall(text)]


def gold_problem(gold: str) -> str | None:
    """Return in words why the grader cannot read a gold answer, None if it can.

    Example:
        >>> gold_problem("1,200"), gold_problem("1,20")
        (None, 'has commas that do not separate groups of three digits')
    """
    if read_quantity(gold) is not None:
        return None
    text = unwrap(gold.strip()).strip()
    return _shape_problem(text) or latex_gold_problem(text)


def _shape_problem(text: str) -> str | None:
    """Return what is wrong with a gold that is no number, as far as its look tells; no sympy here."""
    if not text.strip("{}[]()$ -"):
        return "is empty"
    if len(text) > MAX_NUMBER_CHARS:
        return f"has {len(text)} characters; a final answer has at most {MAX_NUMBER_CHARS}"
    if _DIGIT_LIST.fullmatch(text) and not _LISTED.fullmatch(text):
        return "has commas that do not separate groups of three digits" if "," in text else "is several numbers"
    if _PROSE.search(_ENVIRONMENT.sub("", _TEXT_GROUP.sub("", text))):
        return "is text, neither a number nor LaTeX (a word that is the answer is written \\text{word})"
    return None
