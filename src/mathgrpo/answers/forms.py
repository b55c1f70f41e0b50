"""The kind of an answer, by its look: a value with a unit, words, a choice, a list, a tuple or interval, an equation...

Only kinds that agree are compared (`same_form.py`), part by part, so that what is left for the computer algebra is one
value against one value. Reading is linear in the text for each level of brackets, and texts are short.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from mathgrpo.answers.brackets import JOINT, balanced, outside, pieces_of, spans_whole, split_outside
from mathgrpo.answers.canonical import canonical
from mathgrpo.answers.inequalities import SIGN_NAMES, SIGNS, interval_of
from mathgrpo.answers.numbers import read_canonical
from mathgrpo.answers.plain_forms import Form, choice, clock, words
from mathgrpo.answers.units import known, read_unit

MAX_PARTS = 64
MAX_NESTING = 12


_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[clr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_OR = re.compile(r"\\text\{ ?,?or ?\}|(?<![A-Za-z\\])or(?![A-Za-z])")
_AND = re.compile(r"\\text\{ ?,?and ?\}|(?<![A-Za-z\\])and(?![A-Za-z])|\\(?:wedge|land)(?![a-zA-Z])")
_NAME = re.compile(
    r"\\?[A-Za-z]+'?|[A-Za-z]_\{?[A-Za-z0-9]+\}?|[A-Za-z](?:\^\{-1\})?'{0,2}\([A-Za-z](?:, ?[A-Za-z])*\)"
    r"|\\text\{[A-Za-z ]+\}|\((?:[A-Za-z], ?)+[A-Za-z]\)|[A-Za-z]{2,}(?: [A-Za-z]{2,}){0,4}",
    re.ASCII,
)
_UNIT_TEXT = re.compile(r"(.*[^\s(,+\-*/=]) ?(?:\\text\{([^{}]*)\}((?:\^(?:[0-9]|\{ ?[0-9] ?\}))?))", re.DOTALL)
_UNIT_BARE = re.compile(
    r"(.*[0-9})\]!]|.*\\pi|.*\\infty) ?(°|%|(?<![A-Za-z])[A-Za-z]{2,}(?:[ /][A-Za-z]{2,}){0,3}(?:\^\{?[23]\}?)?)",
    re.DOTALL,
)
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_PROSE = re.compile(r"(?<![\\A-Za-z])(?:[a-z]*[aeiou][a-z]*(?<=[a-z]{4})|[A-Za-z]{5,})(?![A-Za-z])", re.ASCII)
_SEVERAL = re.compile(r"(?<![_0-9])[0-9]+ +[0-9]")


@lru_cache(maxsize=8192)
def read_form(text: str) -> Form | None:
    """Return an answer or a gold as a form, None when it is none: too long, unbalanced, prose.

    Example:
        >>> read_form("(1, 3]").kind, read_form("\\\\{1,3\\\\}").kind, read_form("7 (peaches)").number.value
        ('row', 'bag', Fraction(7, 1))
        >>> read_form("-2 \\\\le x < 7").marks, read_form("18 seems about right to me") is None
        ('[)', False)
    """
    plain = canonical(text)
    return None if not plain else _form(plain, 0)


def _form(text: str, depth: int) -> Form | None:
    text = text.strip()
    if not text or depth > MAX_NESTING:
        return None
    number = read_canonical(text)
    if number is not None:
        return Form("value", text, marks=number.unit, name=number.name, number=number)
    for reader in (choice, clock, words):
        found = reader(text)
        if found is not None:
            return found
    if not balanced(text):
        return None
    worded = _TEXT.fullmatch(text)
    if worded and JOINT.search(worded[1]):
        return _form(worded[1], depth + 1)
    return _composite(text, depth)


def _composite(text: str, depth: int) -> Form | None:
    """Return a form that may have parts."""
    matrix = _matrix(text, depth)
    if matrix is not None:
        return matrix
    pieces = pieces_of(text)
    if len(pieces) > MAX_PARTS:
        return None
    if len(pieces) > 1:
        return _listed(text, pieces, depth)
    signs = outside(text, SIGNS)
    if signs:
        return _related(text, signs, depth)
    united = split_outside(text, re.compile(r"\\cup(?![a-zA-Z])"))
    if len(united) > 1:
        return _all("union", united, depth)
    return _bracketed(text, depth) or _value(text, depth)


def _matrix(text: str, depth: int) -> Form | None:
    inner = text[1:-1].strip() if text[:1] in "([" and text[-1:] in ")]" else text
    match = _MATRIX.fullmatch(inner)
    if not match or "\\begin" in match[2]:
        return None
    rows = [row.split("&") for row in match[2].split("\\\\") if row.strip() not in ("", "\\hline")]
    parts = [_form(cell, depth + 1) for row in rows for cell in row]
    if not rows or any(part is None for part in parts) or len({len(row) for row in rows}) > 1:
        return None
    return Form("matrix", text, tuple(p for p in parts if p), marks=str(len(rows[0])))


def _listed(text: str, pieces: list[str], depth: int) -> Form | None:
    """Return a list without brackets; of inequalities, the union or the interval that they are."""
    parts = [_form(piece, depth + 1) for piece in pieces]
    forms = [part for part in parts if part is not None]
    if len(forms) < len(parts):
        return None
    names = [part.name for part in forms]
    if all(part.kind == "row" and part.name and part.name == names[0] for part in forms):
        if len(forms) == 2 and outside(text, _AND):
            return _intersection(forms[0], forms[1])
        return Form("union", text, tuple(replace(part, name="") for part in forms), name=names[0])
    if names[0] and all(name in ("", names[0]) for name in names[1:]):
        return Form("bag", text, tuple(replace(part, name="") for part in forms), name=names[0])
    return Form("bag", text, tuple(forms), marks="or" if outside(text, _OR) else "")


def _intersection(first: Form, second: Form) -> Form | None:
    """Return x > 1 and x < 3 as one interval; None for what is none."""
    lower, upper = (first, second) if "infty" in first.parts[1].text else (second, first)
    if "infty" not in lower.parts[1].text or "infty" not in upper.parts[0].text:
        return None
    return replace(lower, parts=(lower.parts[0], upper.parts[1]), marks=lower.marks[0] + upper.marks[1])


def _related(text: str, signs: list[tuple[int, int]], depth: int) -> Form | None:
    """Return an equation, inequality or "x \\in ..." as what it says of its variable, else as a relation."""
    sides, place = [], 0
    for start, end in signs:
        sides.append(text[place:start].strip())
        place = end
    sides.append(text[place:].strip())
    marks = [SIGN_NAMES.get(text[start:end], text[start:end].lstrip("\\")) for start, end in signs]
    if any(not side for side in sides):
        return None
    if set(marks) <= {"=", "in", "approx"} and "in" not in marks[:-1]:
        return _named(text, sides, marks, depth)
    interval = interval_of(sides, marks)
    if interval is not None:
        ends = [_form(end, depth + 1) for end in interval.ends]
        both = tuple(end for end in ends if end is not None)
        return Form("row", text, both, interval.brackets, interval.variable) if len(both) == 2 else None
    parts = [Form("value", side) for side in sides]
    return Form("relation", text, tuple(parts), marks=" ".join(marks))


def _named(text: str, sides: list[str], marks: list[str], depth: int) -> Form | None:
    if "approx" in marks:
        return None
    if len(sides) > 2 or not _NAME.fullmatch(sides[0]):
        return Form("relation", text, tuple(Form("value", side) for side in sides), marks=" ".join(marks))
    last = _form(sides[-1], depth + 1)
    return None if last is None else replace(last, name=sides[0].replace(" ", ""))


def _bracketed(text: str, depth: int) -> Form | None:
    """Return what stands in brackets around the whole: a set, a tuple or interval, or one thing in idle brackets."""
    opening, closing = text[0], text[-1]
    if text.startswith("\\{") and text.endswith("\\}") and spans_whole(text[1:-2] + "}"):
        inner = text[2:-2].strip()
        parts = pieces_of(inner) if inner else []
        return _all("bag", parts, depth, "{}") if parts else Form("bag", "", marks="{}")
    if text == "\\mathbb{R}":
        return _form("(-\\infty, \\infty)", depth + 1)
    if text == "\\emptyset":
        return Form("bag", "", marks="{}")
    if opening == "]" or (closing == "[" and opening in "[]("):  # French open ends
        turned = ("(" if opening == "]" else opening) + text[1:-1] + (")" if closing == "[" else closing)
        return _bracketed(turned, depth) if balanced(turned) else None
    if opening in "([" and closing in ")]" and spans_whole(text):
        inner = text[1:-1].strip()
        pieces = pieces_of(inner)
        if len(pieces) > 1:
            return _all("row", pieces, depth, opening + closing)
        return _form(inner, depth + 1) if opening + closing == "()" else None
    if opening == "{" and closing == "}" and spans_whole(text):
        inner = text[1:-1].strip()
        pieces = pieces_of(inner)
        return _all("bag", pieces, depth, "{}") if len(pieces) > 1 else _form(inner, depth + 1)
    return None


def _value(text: str, depth: int) -> Form | None:
    """Return one value, its unit taken off; of a \\pm both."""
    if text[0] == "[" or re.match(r"[+-] ?[+-]", text):
        return None
    if _SEVERAL.search(text) or _PROSE.search(_TEXT.sub("", re.sub(r"\\[A-Za-z]+(?:\{[a-z]+\})?", " ", text))):
        return _united(text, depth)
    if len(_PLUS_MINUS.findall(text)) == 1:
        both = [_PLUS_MINUS.sub(first, text).replace("\\mp", second) for first, second in ("+-", "-+")]
        return _all("bag", [piece.removeprefix("+").strip() for piece in both], depth)
    return _united(text, depth) or Form("value", text)


def _united(text: str, depth: int) -> Form | None:
    """Return a value with its unit behind or its currency before, None when it has neither."""
    if text[0] in "$£€¥" and len(text) > 1:
        inner = _form(text[1:], depth + 1)
        return replace(inner, marks=text[0]) if inner is not None and inner.kind == "value" else None
    match = _UNIT_TEXT.fullmatch(text)
    unit = f"{match[2].strip()}{match[3]}" if match else ""
    if not match:
        match = _UNIT_BARE.fullmatch(text)
        unit = match[2] if match else ""
        if (
            match
            and unit not in "°%"
            and not all(
                known(word) or word in ("square", "sq", "cubic", "per") for word in re.findall(r"[A-Za-z]+", unit)
            )
        ):
            return None
    in_function = unit == "°" and re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text)  # the degrees are its argument's
    if not match or in_function or (unit != "%" and read_unit(unit) is None):
        return None
    inner = _form(match[1].strip(), depth + 1)
    return replace(inner, marks=unit) if inner is not None and inner.kind == "value" and not inner.marks else None


def _all(kind: str, pieces: list[str], depth: int, marks: str = "") -> Form | None:
    parts = [_form(piece, depth + 1) for piece in pieces]
    whole = tuple(part for part in parts if part is not None)
    return Form(kind, ", ".join(pieces), whole, marks) if len(whole) == len(parts) and len(parts) <= MAX_PARTS else None
