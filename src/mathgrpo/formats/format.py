"""What a response format is: the one object that owns its prompt, its writer, its parser and its two checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mathgrpo.formats.agreement import Same, agreed, answer_blocks, same_text
from mathgrpo.formats.thinking import split_thinking


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(ABC):
    """One response format.

    Attributes:
        name: as in a recipe's `format.name`.
        system_prompt: what the model is told.
        question_prefix, question_suffix: put around the question in the user turn.
        leaky: the prompt also holds the worked solution and the answer, and is the user turn alone: no instruction, no
            chat template. Only for comparing with runs that were trained so; accuracy then measures copying.
        chat_template_kwargs: what the run passes to the model's chat template, such as enable_thinking.

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
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

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

        Thinking before the layout is no part of it; answers in it are drafts, which must not differ from the final one.
        opened: what the prompt has begun of it, see `Prompt`; None: not known, and a block only closed is the
        prompt's. question: a box that it holds is no answer where there is another. same: whether two answers are one.
        """

    def user_turn(self, question: str) -> str:
        """Return the user turn that asks a question, without any solution."""
        return self.question_prefix + question + self.question_suffix


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
            drafts = [] if thinking is None else answer_blocks(thinking, *self.answer_tags)
            if opened is None and opening not in text and closing in text:
                text = opening + text  # the prompt has opened it
        start = text.find(opening)
        end = text.find(closing, start + len(opening)) if start >= 0 else -1
        reasoning = text[start + len(opening) : end].strip() if end >= 0 else None
        only = only_block(text, *self.answer_tags)
        blocks = [only] if only else answer_blocks(text, *self.answer_tags)
        if not blocks:
            return Parsed(reasoning, None, strict=False, soft=False)
        (begin, behind, answer), several = blocks[-1], False
        if drafts or len(blocks) > 1:
            answer, several = agreed([inner for _, _, inner in (*drafts, *blocks)], same)
        soft = bool(reasoning and answer) and end + len(closing) <= begin
        alone = start == 0 and text.count(opening) == text.count(closing) == len(blocks) == 1
        strict = soft and alone and not text[end + len(closing) : begin].strip() and not text[behind:].strip()
        return Parsed(reasoning, answer or None, strict, soft, several, text[behind:])


def only_block(text: str, opening: str, closing: str) -> tuple[int, int, str | None] | None:
    """Return start, end and stripped inside of the block when each of its tags occurs exactly once, in order."""
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start = text.find(opening)
    end = text.find(closing, start)
    return (start, end + len(closing), text[start + len(opening) : end].strip()) if end >= 0 else None
