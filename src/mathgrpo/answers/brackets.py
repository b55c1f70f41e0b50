"""Brackets of a canonical text: what stands outside all of them, and where the text divides there."""

from __future__ import annotations

import re

OPEN, CLOSE = "([{", ")]}"
JOINT = re.compile(r"[,;]|\\text\{ ?,?(?:and|or) ?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")


def pieces_of(text: str) -> list[str]:
    """Return what commas, "and" and "or" separate outside brackets; a comma before three digits may be of a number."""
    grouped = re.search(r", ", text) and re.search(r"[0-9],[0-9]{3}(?![0-9])", text)
    if grouped:
        text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    return [piece for piece in (part.strip() for part in split_outside(text, JOINT)) if piece and piece != "\\ldots"]


def split_outside(text: str, pattern: re.Pattern[str]) -> list[str]:
    pieces, place = [], 0
    for start, end in outside(text, pattern):
        pieces.append(text[place:start])
        place = end
    return [*pieces, text[place:]]


def outside(text: str, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    """Return where a pattern matches outside all brackets."""
    spans, depth, place = [(m.start(), m.end()) for m in pattern.finditer(text)], 0, 0
    found = []
    for start, end in spans:
        for character in text[place:start]:
            depth += (character in OPEN) - (character in CLOSE)
        place = start
        if depth == 0:
            found.append((start, end))
    return found


def balanced(text: str) -> bool:
    """Return whether the brackets of a text close, of whatever kind: "[0,9)" does; braces among themselves."""
    depth = braces = 0
    for character in text:
        depth += (character in OPEN) - (character in CLOSE)
        braces += (character == "{") - (character == "}")
        if braces < 0 or (depth < 0 and text[0] != "]"):
            return False
    return braces == 0 and (depth == 0 or text[0] == "]" or text[-1] == "[")


def spans_whole(text: str) -> bool:
    """Return whether the bracket that opens a text closes at its end."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in OPEN) - (character in CLOSE)
        if depth == 0:
            return place == len(text) - 1
    return False
