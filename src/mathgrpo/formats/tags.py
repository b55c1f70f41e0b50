"""The layout of two tagged blocks, reasoning then answer, shared by three of the formats.

Only str.count, str.find and slices: a completion is untrusted and may hold 10^6 tags, where a backtracking pattern
would take minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mathgrpo.formats.format import Parsed


@dataclass(frozen=True, slots=True)
class TagLayout:
    """Two blocks in tags.

    Attributes:
        reasoning_tags: opening and closing tag of the reasoning.
        answer_tags: opening and closing tag of the answer.
        reasoning_edge, answer_edge: written between a tag and the text inside.
        gap: written between the blocks.
        tail: written after the last tag.
    """

    reasoning_tags: tuple[str, str]
    answer_tags: tuple[str, str]
    reasoning_edge: str = ""
    answer_edge: str = ""
    gap: str = ""
    tail: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """The four tags in order."""
        return (*self.reasoning_tags, *self.answer_tags)

    def write(self, reasoning: str, answer: str) -> str:
        """Return a completion with this reasoning and this answer, both stripped."""
        blocks = (
            (self.reasoning_tags, reasoning.strip(), self.reasoning_edge),
            (self.answer_tags, answer.strip(), self.answer_edge),
        )
        written = (f"{opening}{edge}{text}{edge}{closing}" for (opening, closing), text, edge in blocks)
        return self.gap.join(written) + self.tail

    def parse(self, completion: str) -> Parsed:
        """Return reasoning, answer and the two checks of a completion."""
        reasoning_span = _first_block(completion, *self.reasoning_tags)
        answer_span = _only_block(completion, *self.answer_tags)
        reasoning = _text(completion, reasoning_span, self.reasoning_tags)
        answer = _text(completion, answer_span, self.answer_tags) or None
        if reasoning_span is None or answer_span is None or not reasoning or answer is None:
            return Parsed(reasoning, answer, strict=False, soft=False)
        soft = reasoning_span[1] <= answer_span[0]
        strict = (
            soft
            and all(completion.count(tag) == 1 for tag in self.reasoning_tags)
            and reasoning_span[0] == 0
            and not completion[reasoning_span[1] : answer_span[0]].strip()
            and not completion[answer_span[1] :].strip()
        )
        return Parsed(reasoning, answer, strict=strict, soft=soft)


def _first_block(text: str, opening: str, closing: str) -> tuple[int, int] | None:
    """Return where the first block starts and ends, tags included; None when there is none."""
    start = text.find(opening)
    end = text.find(closing, start + len(opening)) if start >= 0 else -1
    return (start, end + len(closing)) if end >= 0 else None


def _only_block(text: str, opening: str, closing: str) -> tuple[int, int] | None:
    """Return where the block is when each of its tags occurs exactly once, in order; None otherwise."""
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    return _first_block(text, opening, closing)


def _text(completion: str, span: tuple[int, int] | None, tags: tuple[str, str]) -> str | None:
    """Return the stripped text inside a block, None without a block."""
    if span is None:
        return None
    return completion[span[0] + len(tags[0]) : span[1] - len(tags[1])].strip()
