"""What a response format is: the one object that owns its prompt, its writer, its parser and its two checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mathgrpo.errors import UserError
from mathgrpo.formats.thinking import split_thinking
from mathgrpo.types import Problem

MAX_MARKS = 1000
"""Answer marks read in one completion; a text with more of them has no answer."""
_PLACEHOLDERS = frozenset(("", "...", "…", "\\ldots", "\\dots", "answer", "your answer", "final answer"))
MAX_PLACEHOLDER_CHARS = 20

Same = Callable[[str, str], bool]
"""Whether two answers of a completion are one answer."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A completion as its format reads it.

    Attributes:
        reasoning: text of the first reasoning block, stripped (boxed: all text before the box); None without one.
        answer: text of the answer block, stripped; None when there is none, it is empty, or there are several that
            differ (one final answer: guesses before the last one are not free).
        strict: exactly the layout the system prompt asks for, with something in both blocks.
        soft: both blocks in order and one answer; text around and between them is tolerated.
        ambiguous: there are several answers that differ.
        tail: what stands behind the answer, "" without one.
    """

    reasoning: str | None
    answer: str | None
    strict: bool
    soft: bool
    ambiguous: bool = False
    tail: str = field(default="", repr=False, compare=False)


def same_text(one: str, other: str) -> bool:
    """Return whether two answers are the same text, spaces and dollar signs aside."""
    return "".join(one.replace("$", "").split()) == "".join(other.replace("$", "").split())


def holds_place(answer: str) -> bool:
    """Return whether a text only holds the place of an answer, as instructions write it: "", "...", "your answer"."""
    return len(answer) < MAX_PLACEHOLDER_CHARS and answer.casefold().strip("[] ") in _PLACEHOLDERS


def agreed(answers: Sequence[str], same: Same) -> tuple[str | None, bool]:
    """Return the answer that all of these are, as the first writes it; and whether they differ, so that there is none.

    What only holds the place of an answer counts by itself alone.
    """
    if len(answers) > MAX_MARKS:
        return None, True
    said = [answer for answer in dict.fromkeys(answers) if not holds_place(answer)]
    if len(said) > 1 and not all(same(said[0], other) for other in said[1:]):
        return None, True
    return (said[0] if said else next(filter(None, answers), None)), False


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(ABC):
    """One response format.

    Attributes:
        name: as in a recipe's `format.name`.
        system_prompt: what the model is told.
        question_prefix, question_suffix: put around the question in the user turn.
        leaky: the prompt also holds the worked solution and the answer, and is the user turn alone: no instruction, no
            chat template. Only for comparing with runs that were trained so; accuracy then measures copying.

    Example:
        >>> from mathgrpo.formats import get_format
        >>> xml = get_format("xml")
        >>> xml.write("2 + 2 = 4", "4")
        '<reasoning>\\n2 + 2 = 4\\n</reasoning>\\n<answer>\\n4\\n</answer>\\n'
        >>> xml.parse("<reasoning>2 + 2 = 4</reasoning> so <answer>4</answer>")
        Parsed(reasoning='2 + 2 = 4', answer='4', strict=False, soft=True, ambiguous=False)
    """

    name: str
    system_prompt: str
    question_prefix: str = ""
    question_suffix: str = ""
    leaky: bool = False

    @property
    @abstractmethod
    def marks(self) -> tuple[str, ...]:
        """The marks a completion must hold once each, in this order."""

    @abstractmethod
    def write(self, reasoning: str, answer: str) -> str:
        """Return a worked solution as the completion a model should give, both parts stripped."""

    @abstractmethod
    def parse(
        self, completion: str, *, opened: str | None = None, question: str = "", same: Same = same_text
    ) -> Parsed:
        """Return reasoning, answer and the two checks, in time linear in the text; never raises, whatever it is.

        Thinking before the layout ("<think>...</think>" of a model whose layout is another) is no part of it. Answers
        in it are drafts: the final one stands behind, and one that differs from it makes several.

        Args:
            opened: what the prompt has begun of the completion, see `opened_by`; None: not known, so that a block
                which is closed and was not opened is the prompt's.
            question: an answer mark that it holds itself is no answer where there is another.
            same: whether two answers are one.
        """

    def user_turn(self, question: str) -> str:
        """Return the user turn that asks a question, without any solution."""
        return self.question_prefix + question + self.question_suffix

    def problem_turn(self, problem: Problem) -> str:
        """Return the user turn of a problem: the question, and for a leaky format its solution and answer too.

        Raises:
            UserError: the format is leaky and the problem has no worked solution to show.
        """
        if not self.leaky:
            return self.user_turn(problem.question)
        if not problem.solution:
            raise UserError(
                f'format.name="{self.name}": it shows each worked solution in the prompt, and the problem '
                f'{problem.question[:60]!r} has none; name problems.columns.solution, or use format.name="think"'
            )
        return self.user_turn(problem.question) + "\n\n" + self.write(problem.solution, problem.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagFormat(Format):
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
        return (*self.reasoning_tags, *self.answer_tags)

    def write(self, reasoning: str, answer: str) -> str:
        blocks = (
            (self.reasoning_tags, reasoning.strip(), self.reasoning_edge),
            (self.answer_tags, answer.strip(), self.answer_edge),
        )
        written = (f"{opening}{edge}{text}{edge}{closing}" for (opening, closing), text, edge in blocks)
        return self.gap.join(written) + self.tail

    def parse(
        self, completion: str, *, opened: str | None = None, question: str = "", same: Same = same_text
    ) -> Parsed:
        opening, closing = self.reasoning_tags
        text, drafts = (opened or "") + completion, []
        if not text.startswith(opening):
            thinking, text = split_thinking(text, opening, begun=opened is None)
            drafts = [] if thinking is None else _blocks(thinking, *self.answer_tags) or []
            if opened is None and opening not in text and closing in text:
                text = opening + text  # the prompt has opened it
        start = text.find(opening)
        end = text.find(closing, start + len(opening)) if start >= 0 else -1
        reasoning = text[start + len(opening) : end].strip() if end >= 0 else None
        blocks = _blocks(text, *self.answer_tags)
        if not blocks:
            return Parsed(reasoning, None, strict=False, soft=False)
        answer, several = agreed([block.inner for block in (*drafts, *blocks)], same)
        last = blocks[-1]
        if not reasoning or answer is None:
            return Parsed(reasoning, answer, False, False, several, text[last.end :])
        soft = end + len(closing) <= last.start
        strict = (
            soft
            and len(blocks) == 1
            and all(text.count(tag) == 1 for tag in self.reasoning_tags)
            and start == 0
            and not text[end + len(closing) : last.start].strip()
            and not text[last.end :].strip()
        )
        return Parsed(reasoning, answer, strict, soft, tail=text[last.end :])


class _Block(NamedTuple):
    """An answer block: where it starts and ends, tags included, and the stripped text inside."""

    start: int
    end: int
    inner: str


def _blocks(text: str, opening: str, closing: str) -> list[_Block]:
    """Return a text's blocks; none where the tags do not open and close one after another, or where there are many."""
    count = text.count(opening)
    if not 0 < count <= MAX_MARKS or text.count(closing) != count:
        return []
    blocks, place = [], 0
    for _ in range(count):
        start = text.find(opening, place)
        end = text.find(closing, start)
        if text.find(closing, place) < start or 0 <= text.find(opening, start + 1) < end:
            return []
        place = end + len(closing)
        blocks.append(_Block(start, place, text[start + len(opening) : end].strip()))
    return blocks
