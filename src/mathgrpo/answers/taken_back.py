"""Whether two answers are one, and whether the text behind an answer takes it back: by saying or marking another."""

from __future__ import annotations

import re
from collections.abc import Callable

from mathgrpo.answers.in_prose import last_expression
from mathgrpo.answers.marks import hashed, said_answer, tagged
from mathgrpo.answers.numbers import parse_number, read_quantity
from mathgrpo.formats.agreement import Same, holds_place, same_text
from mathgrpo.formats.layouts import box_contents

_LISTED = re.compile(r"[\s$)\]\\*]*(?:[,;/|&=]|or\b|and\b)\s*\\?[$(]*[-+\u2212]?\.?[0-9\\]", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:that|this|it|which|answer|above|previous|result)(?:'s| is| was| seems| looks| must be)?"
    r" (?:wrong|incorrect|false|mistaken|invalid|an? (?:mistake|error)|not (?:right|correct|true))\b"
    r"|\b(?:ignore|disregard|scratch|forget) (?:that|this|the (?:above|previous|answer))",
    re.IGNORECASE,
)
_PUT_RIGHT = re.compile(
    r"\b(?:actually|correction|corrected|sorry|oops|wait|hold on|i mean|i meant|instead|rather|must be|mistake|wrong"
    r"|should(?: have)? be(?:en)?|incorrect|on second thought|no,|or|alternatively|edit|hmm+|answer"
    r"|(?:value|result|total|number) (?:is|was|=))(?![A-Za-z])",
    re.IGNORECASE,
)
# Nothing but another number, with at most two words before it: "19?", "Result = 19".
MAX_BARE_CHARS = 60
_BARE = re.compile(
    r"[^A-Za-z0-9\\]*(?:(?!(?:mod|not|of|than|so)\b)[A-Za-z]+[^A-Za-z0-9\\]+){0,2}"
    r"[-+\u2212$]*\.?[0-9][0-9.,]*%?[^A-Za-z0-9]*"
)


def same_answer(one: str, other: str, *, right: Callable[[str], bool]) -> bool:
    """Return whether two answers of a completion are one: the same text or number, or both right.

    Example:
        >>> same_answer("18", "18.0", right=lambda answer: False), same_answer("18", "19", right="18".__eq__)
        (True, False)
    """
    if same_text(one, other):
        return True
    quantity = read_quantity(one)
    if quantity is not None and quantity == read_quantity(other):
        return True
    return right(one) and right(other)


def is_taken_back(answer: str, tail: str, same: Same) -> bool:
    """Return whether the text behind an answer says another: then there is no single one.

    Example:
        >>> from mathgrpo.formats.agreement import same_text
        >>> is_taken_back("6", " Actually the answer is 7.", same_text), is_taken_back("6", " eggs a day.", same_text)
        (True, False)
    """
    tail = tail.strip()
    if not any(character.isalnum() for character in tail):
        return False
    marked = [*(mark.inner for mark in (*tagged(tail), *hashed(tail))), *box_contents(tail)]
    others = [inner for inner in marked if not holds_place(inner)]
    said = said_answer(tail)
    if said is not None:
        others.append(said)
    if parse_number(tail) is not None:
        others.append(tail)
    if any(not same(answer, other) for other in dict.fromkeys(others)):
        return True
    if _DENIED.search(tail):
        return True
    if _LISTED.match(tail) or _PUT_RIGHT.search(tail) or (len(tail) <= MAX_BARE_CHARS and _BARE.fullmatch(tail)):
        last = last_expression(tail)
        return bool(last) and not same(answer, str(last))
    return False
