"""An answer and a gold are read into forms, and the forms compared: what the grader does beyond plain integers."""

from __future__ import annotations

import re
from functools import lru_cache

from mathgrpo.answers.brackets import balanced
from mathgrpo.answers.canonical import canonical
from mathgrpo.answers.forms import read_form
from mathgrpo.answers.latex import latex_gold_problem, refusal
from mathgrpo.answers.numbers import MAX_NUMBER_CHARS
from mathgrpo.answers.plain_forms import Form
from mathgrpo.answers.same_form import same
from mathgrpo.answers.same_value import Asked, for_algebra, rule_of
from mathgrpo.answers.tolerance import EXACT, Tolerance
from mathgrpo.answers.units import NUMBER_WORDS, read_unit, words_of
from mathgrpo.types import Verdict

EQUAL, UNEQUAL = "the same number as the gold", "another number than the gold"
_MISSING = frozenset(("unknown", "n/a", "na", "nan", "null", "none given", "todo", "tbd", "undefined answer"))
_SPOKEN = (
    "is are was were am be been see we you they it i that which who because since therefore thus hence then let have "
    "has had find so if when where get gets must should would can could proof prove show note follows"
)
"""Words of sentences: a gold with one of them, not in a \\text{}, explains something and is no answer."""
_DRESSED = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+")
MAX_GOLD_WORDS = 5
_COMPUTED = ("value", "bag", "row", "union", "relation", "matrix")
_DIGIT_LIST = re.compile(r"[0-9.,\s]+", re.ASCII)


def compared(answer: str, gold: str, question: str, tolerance: Tolerance = EXACT) -> Verdict:
    """Return the verdict on an answer that is not empty, see `grade`."""
    gold_form = read_form(gold)
    if gold_form is None or _shape_problem(gold, gold_form) is not None:
        return Verdict("error", answer, "", "the gold cannot be graded")
    form = read_form(answer)
    refused = _refusal(answer, form, gold_form, exact=tolerance is EXACT)
    if refused is not None or form is None:
        return Verdict("refused", answer, rule_of(gold_form), refused or "")
    return same(form, gold_form, Asked(question, gold, tolerance))


def _refusal(answer: str, form: Form | None, gold: Form, *, exact: bool) -> str | None:
    """Return why an answer is not compared, None when it is."""
    if form is None or (form.kind in _COMPUTED and form.number is None):
        too_much = refusal(canonical(answer) or answer)
        if too_much is not None:
            return f"not tried: {too_much}"
    if exact and gold.number is not None and (form is None or form.number is None) and not _may_be_number(form):
        return "the gold is a number, and this is not read as one"
    return "not read as a final answer" if form is None else None


def _may_be_number(form: Form | None) -> bool:
    """Return whether a form without a number can equal one: a set of one, a time, a ratio, a number in a base."""
    return form is not None and (form.kind in ("time", "ratio", "base", "choice") or len(form.parts) == 1)


@lru_cache(maxsize=4096)
def gold_problem(gold: str) -> str | None:
    """Return in words why the grader cannot read a gold answer, None if it can.

    Example:
        >>> gold_problem("1,200"), gold_problem("17 18")
        (None, 'is several numbers')
    """
    form = read_form(gold)
    problem = _shape_problem(gold, form)
    if problem or form is None:
        return problem or "is text, neither a number nor LaTeX (a word that is the answer is written \\text{word})"
    return next((found for found in map(_part_problem, _values(form)) if found), None)


def _values(form: Form) -> list[Form]:
    """Return the values that a form is made of."""
    return [form] if form.kind == "value" else [value for part in form.parts for value in _values(part)]


def _part_problem(value: Form) -> str | None:
    if value.number is not None:
        unit = read_unit(value.marks, words_of(value.marks))
        return None if value.marks == "%" or unit is not None else f"has no unit behind its number: {value.marks!r}"
    return latex_gold_problem(for_algebra(value.text))


def _shape_problem(gold: str, form: Form | None) -> str | None:
    """Return what is wrong with a gold as far as its look tells; no sympy here."""
    text = canonical(gold)
    if text is None:
        return f"has {len(gold.strip())} characters; a final answer has at most {MAX_NUMBER_CHARS}"
    if _is_sentence(text):
        return "is a sentence, not a final answer (words that are the answer are written \\text{words})"
    if not text.strip("{}[]()$ -\\") and not (form and form.marks == "{}"):
        return "is empty"
    if form is None and _DIGIT_LIST.fullmatch(text):
        return "is several numbers"
    if form is None:
        return None if balanced(text) else "has brackets that do not close"
    hedged = (
        form.kind == "bag"
        and form.marks == "or"
        and not any(part.name or part.kind in ("row", "relation") for part in form.parts)
    )
    words = form.text.casefold().split() if form.kind == "text" else []
    if hedged or text.casefold() in _MISSING or form.text.casefold() in _MISSING or NUMBER_WORDS.intersection(words):
        return "is text, neither a number nor LaTeX (a word that is the answer is written \\text{word})"
    return None


def _is_sentence(text: str) -> bool:
    words = re.findall(r"[A-Za-z]+", _DRESSED.sub(" ", text))
    spoken = [word.casefold() for word in words if len(word) > 1]
    return (
        len(spoken) > MAX_GOLD_WORDS
        or spoken == ["proof"]
        or (len(words) > 1 and not set(_SPOKEN.split()).isdisjoint(spoken))
    )
