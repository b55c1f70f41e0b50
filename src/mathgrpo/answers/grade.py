"""An answer and a gold answer become a verdict.

A gold that is a number is compared exactly, in this process, and only with an answer that is one number. Any other
gold is LaTeX and goes to math-verify in a child process (`latex.py`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from mathgrpo.answers.flexible import flexible_answer
from mathgrpo.answers.latex import latex_gold_problem, latex_verdict
from mathgrpo.answers.numbers import MAX_NUMBER_CHARS, Quantity, read_quantity, units_agree, unwrap
from mathgrpo.arithmetic import has_equation
from mathgrpo.formats import Format
from mathgrpo.types import Graded, Verdict

_PERCENT_WORD = re.compile(r"(?<![0-9])(?<![0-9] )(?:\bpercent|\bper cent|%)", re.IGNORECASE)
_LAST_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=\S)")
_BASE_SUBSCRIPT = re.compile(r"[0-9]\s*_")
_ENVIRONMENT = re.compile(r"\\(?:begin|end|operatorname|mathbb|mathcal)\s*\{[^{}]*\}")
_TEXT_GROUP = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{[^{}]*\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|or|is|to|n/a)(?![A-Za-z])", re.IGNORECASE)
_DIGIT_LIST = re.compile(r"[0-9.,\s]+", re.ASCII)
_LISTED = re.compile(r"-?[0-9.]+(?:, -?[0-9.]+)+", re.ASCII)


def grade(answer: str | None, gold: str, *, question: str = "") -> Verdict:
    """Return the verdict on an answer.

    Per cent: "%" is a unit. "50%" answers the gold 50 when the question asks for a percentage, else it is 0.5;
    for the gold "50%" both "50%" and "50" are right. Units otherwise: ignored unless the gold has one too, then they
    must agree ("5 m" is wrong for "5 cm").

    Example:
        >>> grade("$1,200.", "1200"), grade("18 or 19", "18"), grade(" ", "18")
        ('correct', 'unreadable', 'no_answer')
        >>> grade("50%", "50", question="What percentage is left?"), grade("50%", "50", question="How many are left?")
        ('correct', 'wrong')
    """
    if answer is None or not answer.strip():
        return "no_answer"
    gold_quantity = read_quantity(gold)
    if gold_quantity is None:
        return _grade_expression(unwrap(answer.strip()).strip(), unwrap(gold.strip()).strip())
    quantity = read_quantity(answer)
    if quantity is None:
        return "unreadable"
    return "correct" if _same(quantity, gold_quantity, question) else "wrong"


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


def _grade_expression(answer: str, gold: str) -> Verdict:
    if _shape_problem(gold) is not None:
        return "error"
    if answer == gold:
        return "correct"
    # math-verify drops the base of "10_2" and the unit of "5\text{ cm}": there only the same text is the same answer.
    if _BASE_SUBSCRIPT.search(gold) or _BASE_SUBSCRIPT.search(answer):
        return "correct" if "".join(answer.split()) == "".join(gold.split()) else "wrong"
    texts, gold_texts = _text_groups(answer), _text_groups(gold)
    if texts and gold_texts and texts != gold_texts:
        return "wrong"
    return latex_verdict(answer, gold)


def _text_groups(text: str) -> list[str]:
    return ["".join(group.split("{", 1)[1].split()) for group in _TEXT_GROUP.findall(text)]


def grade_completion(text: str, gold: str, fmt: Format, *, question: str = "") -> Graded:
    """Return what there is to know about a completion, from one parse and at most one grading. Never raises.

    Args:
        question: tells whether a percentage was asked for, see `grade`.
    """
    parsed = fmt.parse(text)
    found = parsed.answer if parsed.answer is not None else flexible_answer(text)
    flexible_verdict = grade(found, gold, question=question)
    return Graded(
        reasoning=parsed.reasoning,
        answer=parsed.answer,
        found=found,
        verdict="no_answer" if parsed.answer is None else flexible_verdict,
        flexible_verdict=flexible_verdict,
        format_strict=parsed.strict,
        format_soft=parsed.soft,
        worked=has_equation(text if parsed.reasoning is None else parsed.reasoning),
    )
