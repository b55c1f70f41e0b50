"""Several answers in one completion: one where they are the same, none where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MAX_MARKS = 1000
"""Answer marks read in one completion; a text with more of them has no answer."""
_PLACEHOLDERS = frozenset(("", "...", "…", "\\ldots", "\\dots", "answer", "your answer", "final answer"))
MAX_PLACEHOLDER_CHARS = 20

Same = Callable[[str, str], bool]
"""Whether two answers of a completion are one answer."""


def same_text(one: str, other: str) -> bool:
    """Return whether two answers are the same text, spaces and dollar signs aside."""
    return "".join(one.replace("$", "").split()) == "".join(other.replace("$", "").split())


def holds_place(answer: str) -> bool:
    """Return whether a text only holds the place of an answer, as instructions write it: "", "...", "your answer"."""
    return len(answer) < MAX_PLACEHOLDER_CHARS and answer.casefold().strip("[] ") in _PLACEHOLDERS


def agreed(answers: Sequence[str | None], same: Same) -> tuple[str | None, bool]:
    """Return the answer that all of these are, as the first writes it; and whether they differ, so that there is none.

    What only holds the place of an answer counts by itself alone.
    """
    if len(answers) > MAX_MARKS:
        return None, True
    said = [answer for answer in dict.fromkeys(answers) if answer and not holds_place(answer)]
    if len(said) > 1 and not all(same(said[0], other) for other in said[1:]):
        return None, True
    return (said[0] if said else next(filter(None, answers), None)), False


def answer_blocks(text: str, opening: str, closing: str) -> list[tuple[int, int, str | None]]:
    """Return start, end and stripped inside of a text's blocks; none where the tags do not open and close in turn."""
    count = text.count(opening)
    if not 0 < count <= MAX_MARKS or text.count(closing) != count:
        return []
    blocks: list[tuple[int, int, str | None]] = []
    place = 0
    for _ in range(count):
        start = text.find(opening, place)
        end = text.find(closing, start)
        if text.find(closing, place) < start or 0 <= text.find(opening, start + 1) < end:
            return []
        place = end + len(closing)
        blocks.append((start, place, text[start + len(opening) : end].strip()))
    return blocks
