"""The marks of an answer outside the format: tags of any format, ####, "the answer is"."""

from __future__ import annotations

import re
from typing import NamedTuple

from mathgrpo.answers.in_prose import expressions, formulas, result
from mathgrpo.answers.numbers import parse_number
from mathgrpo.formats.agreement import MAX_MARKS

TAGS = (("<answer>", "</answer>"), ("<SOLUTION>", "</SOLUTION>"))
_HASHES = re.compile(r"####+[ \t]*([^\n#]*)")
_SAYS = re.compile(r"\banswer(?: is|:)(?:\*\*)?:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|\*|$)")
_CHOICE = re.compile(r"\(?[A-J]\)?")
MAX_SAID_CHARS = 200


class Mark(NamedTuple):
    """What is marked as an answer, stripped, and where its mark ends."""

    inner: str
    end: int


def tagged(text: str) -> list[Mark]:
    """Return what stands in answer tags of any format."""
    found: list[Mark] = []
    for opening, closing in TAGS:
        place = 0
        while len(found) <= MAX_MARKS and (start := text.find(opening, place)) >= 0:
            start += len(opening)
            end, another = text.find(closing, start), text.find(opening, start)
            if end < 0:
                break
            place = end + len(closing) if another < 0 or end < another else another
            found += [Mark(text[start:end].strip(), place)] if place > end else []
    return sorted(found, key=lambda mark: mark.end)


def hashed(text: str) -> list[Mark]:
    """Return what follows each #### on its line."""
    return [Mark(match[1].strip(), match.end()) for match in _HASHES.finditer(text)]


def said_answer(text: str) -> str | None:
    """Return what the last "answer is" or "answer:" says; "" where that is several or not whole, None if it is none."""
    start = -1
    for match in _SAYS.finditer(text):
        start = match.end()
    if start < 0:
        return None
    said = text[start : start + MAX_SAID_CHARS].lstrip(" \t\n*:")
    display = formulas(said)
    if display and display[0].start == 0:
        rest = said[display[0].end :].partition("\n")[0]
        return "" if expressions(rest[: _end(rest)]) else result(display[0].text)
    line = said.partition("\n")[0]
    sentence = line[: _end(line)].strip().rstrip("*").strip()
    if parse_number(sentence) is not None or _CHOICE.fullmatch(sentence):
        return sentence
    end = sentence if "$" in sentence else sentence.rpartition("=")[2]
    found = list(dict.fromkeys(map(result, expressions(end))))
    return (found[0] if len(found) == 1 else "") if found else None


def _end(line: str) -> int:
    end = _SENTENCE_END.search(line)
    return end.start() if end else len(line)
