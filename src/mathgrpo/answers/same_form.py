"""Whether two forms are the same answer: kinds must agree, parts are compared in turn, values by number or algebra.

Numbers with units are compared exactly here; what is neither a number nor the same text goes to the grader's child.
"""

from __future__ import annotations

import re
from fractions import Fraction

from mathgrpo.answers.brackets import outside
from mathgrpo.answers.inequalities import SIGN_NAMES, SIGNS
from mathgrpo.answers.latex import latex_verdict
from mathgrpo.answers.numbers import Quantity
from mathgrpo.answers.plain_forms import Form
from mathgrpo.answers.question_asks import asked_base
from mathgrpo.answers.same_value import Asked, bare, for_algebra, same_if, same_value, verdict_on
from mathgrpo.types import Verdict

_ARTICLE = re.compile(r"^(?:the|an?) (?=\w)", re.IGNORECASE)


def same(answer: Form, gold: Form, asked: Asked) -> Verdict:
    """Return the verdict on an answer's form: "correct", "wrong", or that it is not read or not decided.

    Example:
        >>> from mathgrpo.answers.forms import read_form
        >>> same(read_form("[1, 2)"), read_form("(1, 2)"), Asked()).why
        'another kind of brackets than the gold'
    """
    answer, gold = _alike(answer, gold, asked)
    if answer.kind != gold.kind:
        return verdict_on("wrong", answer, f"{_KINDS[answer.kind]}, where the gold is {_KINDS[gold.kind]}")
    if answer.name and gold.name and answer.name != gold.name and max(len(answer.name), len(gold.name)) == 1:
        return verdict_on("wrong", answer, "another variable than the gold's")
    return _COMPARED[gold.kind](answer, gold, asked)


_KINDS = {
    "value": "a value", "text": "words", "choice": "a choice", "bag": "a list or set", "row": "a tuple or interval",
    "union": "a union", "relation": "an equation or inequality", "time": "a time", "ratio": "a ratio",
    "base": "a number in a base", "matrix": "a matrix",
}  # fmt: skip


def _alike(answer: Form, gold: Form, asked: Asked) -> tuple[Form, Form]:
    """Return both with one turned into the kind of the other, where one thing is written in two kinds."""
    kinds = (answer.kind, gold.kind)
    if kinds == ("value", "bag") and len(gold.parts) == 1:
        return answer, gold.parts[0]
    if kinds == ("bag", "value") and len(answer.parts) == 1:
        return answer.parts[0], gold
    if set(kinds) == {"row", "bag"}:
        return _without_brackets(answer, gold), _without_brackets(gold, answer)
    if "relation" in kinds and kinds[0] != kinds[1]:
        return _as_relation(answer), _as_relation(gold)
    if kinds == ("relation", "relation"):
        return answer, gold
    if set(kinds) == {"matrix", "value"}:
        return Form("value", answer.text), Form("value", gold.text)
    if "base" in kinds and "value" in kinds:
        return _from_base(answer, gold, asked)
    if "time" in kinds and "value" in kinds:
        return _as_time(answer), _as_time(gold)
    if "ratio" in kinds and "value" in kinds:
        return _as_quotient(answer), _as_quotient(gold)
    if {"time", "ratio"} == set(kinds):
        return _as_ratio(answer), _as_ratio(gold)
    if ("choice" in kinds and "text" in kinds) or kinds == ("value", "choice") or kinds == ("choice", "value"):
        return _as_choice(answer, gold), _as_choice(gold, answer)
    if kinds in (("value", "text"), ("text", "value")):
        return _as_choice(answer, gold), _as_choice(gold, answer)
    return answer, gold


def _without_brackets(form: Form, other: Form) -> Form:
    """Return a list as the tuple it may be: "(1, 2, 3)" says "1, 2, 3"; of two parts, a gold in brackets means them."""
    as_tuple = form.kind == "bag" and not form.marks and other.marks == "()" and len(form.parts) == len(other.parts)
    return Form("row", form.text, form.parts, "()") if as_tuple else form


def _plain(form: Form) -> str:
    return form.text if form.kind == "text" else re.sub(r"\\text\{([^{}]*)\}", r"\1", form.text)


def _as_relation(form: Form) -> Form:
    if form.kind == "value" and form.name:
        return Form("relation", form.text, (Form("value", form.name), Form("value", form.text)), marks="=")
    signs = outside(form.text, SIGNS) if form.kind == "row" and form.name else []
    if len(signs) == 1:
        (start, end), text = signs[0], form.text
        sides = (Form("value", text[:start].strip()), Form("value", text[end:].strip()))
        return Form("relation", text, sides, marks=SIGN_NAMES.get(text[start:end], text[start:end].lstrip("\\")))
    return form


def _as_choice(form: Form, other: Form) -> Form:
    """Return a choice with its text as the text alone, where the other is no letter."""
    if form.kind == "choice" and form.marks and other.kind != "choice":
        return Form("text", form.marks)
    plain = _plain(form)
    return Form("text", plain) if re.fullmatch(r"[A-Za-z0-9 .]+", plain) else form


def _from_base(answer: Form, gold: Form, asked: Asked) -> tuple[Form, Form]:
    """Return a number in a base and a plain one as two of one kind: in the base asked for, or by value."""
    based, plain = (answer, gold) if answer.kind == "base" else (gold, answer)
    digits = plain.text.replace(" ", "")
    if asked_base(asked.question) == int(based.marks) and re.fullmatch(r"[0-9A-F]+", digits):
        turned = Form("base", digits, marks=based.marks)
    elif based is answer and plain.number is not None:
        try:
            value = Fraction(int(based.text, int(based.marks)))
        except ValueError:
            return answer, gold
        return Form("value", based.text, number=Quantity(value)), plain
    else:
        return answer, gold
    return (based, turned) if based is answer else (turned, based)


def _as_time(form: Form) -> Form:
    half = form.marks.replace(".", "").casefold()
    hour = form.number.value if form.number is not None else None
    if form.kind == "value" and half in ("am", "pm") and hour is not None and hour.denominator == 1:
        return Form("time", f"{hour}:00:00", marks=half[0])
    return form


def _as_ratio(form: Form) -> Form:
    """Return a time that says no half of the day as the ratio it may be: 6:16."""
    if form.kind == "ratio" or form.marks:
        return form
    numbers = [int(part) for part in form.text.removesuffix(":00").split(":")]
    return Form("ratio", form.text, tuple(Form("value", number=Quantity(Fraction(number))) for number in numbers))


def _as_quotient(form: Form) -> Form:
    if form.kind != "ratio" or len(form.parts) != 2 or not form.parts[1].number or not form.parts[1].number.value:
        return form
    first, second = (part.number.value for part in form.parts if part.number is not None)
    return Form("value", form.text, number=Quantity(first / second))


def _same_text(answer: Form, gold: Form, asked: Asked) -> Verdict:
    return same_if(_folded(answer.text) == _folded(gold.text), answer, "other words than the gold's")


def _folded(text: str) -> str:
    words = re.sub(r"[\s,.;:!?\"'()-]+", " ", text.casefold()).strip()
    return _ARTICLE.sub("", re.sub(r"(?<=[0-9])(?:st|nd|rd|th)\b", "", words)).replace(" ", "")


def _same_choice(answer: Form, gold: Form, asked: Asked) -> Verdict:
    return same_if(answer.text == gold.text, answer, "another choice than the gold")


def _same_time(answer: Form, gold: Form, asked: Asked) -> Verdict:
    (hour, *rest), (gold_hour, *gold_rest) = answer.text.split(":"), gold.text.split(":")
    first, second = _hours(int(hour), answer.marks), _hours(int(gold_hour), gold.marks)
    one_is_open = bool(answer.marks) != bool(gold.marks)
    equal = first == second or (one_is_open and int(hour) <= 12 and int(gold_hour) <= 12 and hour == gold_hour)
    return same_if(equal and rest == gold_rest, answer, "another time than the gold")


def _hours(hour: int, half: str) -> int:
    return hour % 12 + (12 if half == "p" else 0) if half else hour


def _same_ratio(answer: Form, gold: Form, asked: Asked) -> Verdict:
    first = [part.number.value for part in answer.parts if part.number is not None]
    second = [part.number.value for part in gold.parts if part.number is not None]
    equal = len(first) == len(second) and all(a * second[0] == g * first[0] for a, g in zip(first, second, strict=True))
    return same_if(first == second or (equal and all(first)), answer, "another ratio than the gold")


def _same_base(answer: Form, gold: Form, asked: Asked) -> Verdict:
    equal = (answer.text.lstrip("0"), answer.marks) == (gold.text.lstrip("0"), gold.marks)
    return same_if(equal, answer, "other digits or another base than the gold's")


def _in_order(answer: Form, gold: Form, asked: Asked) -> Verdict:
    if len(answer.parts) != len(gold.parts) or answer.marks != gold.marks:
        why = (
            "another kind of brackets than the gold"
            if answer.marks != gold.marks
            else "more or fewer parts than the gold"
        )
        return verdict_on("wrong", answer, why)
    for mine, its in zip(answer.parts, gold.parts, strict=True):
        found = same(mine, its, asked)
        if found != "correct":
            return Verdict(found.outcome, answer.text, found.rule, f"at {mine.text!r}: {found.why}")  # type: ignore[arg-type]
    return verdict_on("correct", answer, "the same as the gold, part by part")


def _in_any_order(answer: Form, gold: Form, asked: Asked) -> Verdict:
    mine, left = _distinct(_flat(answer)), list(_distinct(_flat(gold)))
    if len(mine) != len(left):
        return verdict_on("wrong", answer, "more or fewer parts than the gold")
    undecided = None
    for part in mine:
        for place, its in enumerate(left):
            found = same(part, its, asked)
            if found == "correct":
                del left[place]
                break
            if found != "wrong":
                undecided = found
        else:
            return undecided or verdict_on("wrong", answer, f"{part.text!r} is not in the gold")
    return verdict_on("correct", answer, "the same parts as the gold")


def _flat(form: Form) -> Form:
    """Return a list whose parts are no lists: of "\\pm 1, \\pm 7" four numbers."""
    if not any(part.kind == "bag" and part.marks != "{}" for part in form.parts):
        return form
    parts = [_flat(part).parts if part.kind == "bag" and part.marks != "{}" else (part,) for part in form.parts]
    return Form(form.kind, form.text, tuple(one for some in parts for one in some), form.marks)


def _distinct(form: Form) -> tuple[Form, ...]:
    """Return the parts; of a set and of both values of \\pm each once."""
    found: dict[object, Form] = {}
    for place, part in enumerate(form.parts):
        found.setdefault((part.kind, part.text) if form.marks == "{}" else place, part)
    return tuple(found.values())


def _same_relation(answer: Form, gold: Form, asked: Asked) -> Verdict:
    mine, its = _ordered(answer), _ordered(gold)
    if mine[0] != its[0] or len(mine[1]) != len(its[1]):
        return verdict_on("wrong", answer, "another relation than the gold's")
    if [bare(side) for side in mine[1]] == [bare(side) for side in its[1]]:
        return verdict_on("correct", answer, "the same as the gold")
    if len(mine[1]) != 2 or mine[0] not in ("=", "<", "le", "ne"):
        return _in_order(Form("row", answer.text, answer.parts), Form("row", gold.text, gold.parts), asked)
    sides = [f"{left} {'=' if mine[0] in ('=', 'ne') else '<'} {right}" for left, right in (mine[1], its[1])]
    return latex_verdict(for_algebra(sides[0]), for_algebra(sides[1]))


def _ordered(form: Form) -> tuple[str, list[str]]:
    """Return a relation's sign and sides, turned so that the smaller side comes first."""
    sides = [part.text for part in form.parts]
    turned = {">": "<", "ge": "le"}
    return (turned[form.marks], sides[::-1]) if form.marks in turned else (form.marks, sides)


_COMPARED = {
    "value": same_value, "text": _same_text, "choice": _same_choice, "bag": _in_any_order, "row": _in_order,
    "union": _in_any_order, "relation": _same_relation, "time": _same_time, "ratio": _same_ratio, "base": _same_base,
    "matrix": _in_order,
}  # fmt: skip
