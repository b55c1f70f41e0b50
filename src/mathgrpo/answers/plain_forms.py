"""What an answer is read as, and the kinds of it that have no parts: a choice, a time, a ratio, a base, words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mathgrpo.answers.brackets import JOINT, balanced
from mathgrpo.answers.numbers import Quantity, read_canonical
from mathgrpo.answers.question_asks import BASE_WORDS

MAX_WORDS = 8


@dataclass(frozen=True, slots=True)
class Form:
    """An answer, read.

    Attributes:
        kind: value | text | choice | bag (list or set) | row (tuple or interval) | union | relation | time | ratio |
            base | matrix.
        text: the canonical text: of a value without its unit, of a choice its letter, of a base its digits.
        parts: what a bag, row, union, ratio, matrix or relation is made of.
        marks: a value's unit; a row's two brackets; "{}" for a set; a relation's sign; a base; a matrix's width.
        name: what stood before "=" or \\in.
        number: the exact number, where a value is one.
    """

    kind: str
    text: str = ""
    parts: tuple[Form, ...] = ()
    marks: str = ""
    name: str = ""
    number: Quantity | None = None


_CHOICE = re.compile(r"\(([A-Za-z])\)[.:]?|([A-Z])[).:]?|(?:option|choice) \(?([A-Za-z])\)?", re.ASCII | re.IGNORECASE)
_CHOICE_AND_MORE = re.compile(r"\(?([A-H])[).:] ?(?=[^\s)+*/=^-])(.+)", re.ASCII)
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))? ?([ap])?\.?(?:m\.?)?", re.ASCII | re.IGNORECASE)
_RATIO = re.compile(r"[0-9.]+(?: ?: ?[0-9.]+)+", re.ASCII)
_BASE = re.compile(r"(-?[0-9A-F]+(?:\.[0-9A-F]+)?)_ ?(?:\{ ?)?(?:\\text\{ ?)?([0-9]{1,2}|[a-z]+)[ }]*", re.ASCII)
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 '&.!?/#-]*", re.ASCII)
_SHORT_WORDS = frozenset(
    [
        "yes",
        "no",
        "odd",
        "one",
        "two",
        "six",
        "ten",
        "day",
        "may",
        "all",
        "red",
        "not",
        "mon",
        "tue",
        "wed",
        "thu",
        "fri",
        "sat",
        "sun",
        "jan",
        "feb",
        "mar",
        "apr",
    ]
)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def choice(text: str) -> Form | None:
    """Return the letter of a choice: "B", "(B)", "B)", "option B", "(B) 12"."""
    bare = opened(text)
    match = _CHOICE.fullmatch(bare)
    letter = match and (match[1] or match[2] or match[3])
    if match and letter and (letter.isupper() or match[3] or (match[1] and letter in "abcdef")):
        return Form("choice", letter.upper())
    more = _CHOICE_AND_MORE.fullmatch(" ".join(bare.split()))
    if more and not re.search(r"(?<![A-Za-z])[A-H][).:]", more[2]) and balanced(more[2]):
        return Form("choice", more[1], marks=more[2])
    return None


def clock(text: str) -> Form | None:
    """Return what is written as a time, a ratio or a number in a base."""
    bare = " ".join(opened(text).split())
    time = _TIME.fullmatch(bare)
    if time and int(time[1]) < 25 and int(time[2]) < 60:
        return Form("time", f"{int(time[1])}:{time[2]}:{time[3] or '00'}", marks=(time[4] or "").casefold())
    if _RATIO.fullmatch(bare):
        parts = [read_canonical(part.strip()) for part in bare.split(":")]
        if all(parts):
            return Form(
                "ratio",
                bare,
                tuple(Form("value", p, number=q) for p, q in zip(bare.split(":"), parts, strict=True)),
            )
    base = _BASE.fullmatch(text)
    if base:
        value = int(base[2]) if base[2].isdigit() else BASE_WORDS.get(base[2], 0)
        if 2 <= value <= 36:
            return Form("base", base[1], marks=str(value))
    return None


def words(text: str) -> Form | None:
    """Return words as a text; not lists of words, and not the short ones that are products of variables."""
    bare = " ".join(opened(text).split()).strip("\"'")
    if not _WORDS.fullmatch(bare) or JOINT.search(bare) or len(bare.split()) > MAX_WORDS:
        return None
    dressed = "\\text" in text and _TEXT.sub("", text).strip() == ""
    long = any(
        len(word) > 3 or word.casefold() in _SHORT_WORDS or (len(word) > 1 and word.isupper())
        for word in re.findall(r"[A-Za-z]+", bare)
    )
    if dressed or (long and not re.search(r"[0-9](?!(?:st|nd|rd|th)\b)[A-Za-z]|/", bare)):
        return Form("text", bare.rstrip(".!?"))
    return None


def opened(text: str) -> str:
    """Return a text with every \\text{} as what it holds."""
    return _TEXT.sub(r" \1 ", text).strip() if "\\text" in text else text
