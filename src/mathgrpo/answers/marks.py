"""The marks of an answer outside the format: tags of any format, ####, "the answer is"."""

from __future__ import annotations

import re
from typing import NamedTuple

from mathgrpo.answers.in_prose import expressions, formulas, result
from mathgrpo.answers.numbers import parse_number
from mathgrpo.formats.agreement import MAX_MARKS

_TAGS = re.compile("</?(?:answer|SOLUTION)>")
_HASHES = re.compile(r"####+[ \t]*([^\n#]*)")
_SAYS = re.compile(r"\banswer(?: is|:)(?:\*\*)?:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|\*|$)")
_CHOICE = re.compile(r"\(?[A-J]\)?")
_MATHS, _PROSE = re.compile(r"[0-9\\π√∞]"), re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2}")
MAX_SAID_CHARS = 200


class Mark(NamedTuple):
    """What is marked as an answer, stripped, and where its mark ends."""

    inner: str
    end: int


def tagged(text: str) -> list[Mark]:
    """Return what stands in answer tags of any format."""
    found: list[Mark] = []
    opening: re.Match[str] | None = None
    for tag in _TAGS.finditer(text):
        if opening is not None and tag[0] == opening[0].replace("<", "</"):
            found.append(Mark(text[opening.end() : tag.start()].strip(), tag.end()))
        opening = None if tag[0].startswith("</") else tag
        if len(found) > MAX_MARKS:
            break
    return found


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
        others = [found for found in expressions(rest[: _end(rest)]) if not found[:1].isalpha()]
        return "" if others or formulas(rest) else result(display[0].text)
    line = said.partition("\n")[0]
    sentence = line[: _end(line)].strip().rstrip("*").strip()
    if parse_number(sentence) is not None or _CHOICE.fullmatch(sentence):
        return sentence
    if _MATHS.search(sentence) and "$" not in sentence and not _PROSE.search(sentence):
        return result(sentence)
    end = sentence if "$" in sentence else sentence.rpartition("=")[2]
    found = list(dict.fromkeys(map(result, expressions(end))))
    return (found[0] if len(found) == 1 else "") if found else None


def _end(line: str) -> int:
    end = _SENTENCE_END.search(line)
    return end.start() if end else len(line)
