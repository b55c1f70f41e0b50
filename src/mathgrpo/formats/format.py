"""What a response format is: the one object that owns its prompt, its writer, its parser and its two checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from mathgrpo.errors import UserError
from mathgrpo.types import Problem


@dataclass(frozen=True, slots=True)
class Parsed:
    """A completion as its format reads it.

    Attributes:
        reasoning: text of the first reasoning block, stripped (boxed: all text before the box); None without one.
        answer: text of the answer block, stripped; None when there is none, it is empty, or there is more than one
            (one final answer: guesses before the last one are not free).
        strict: exactly the layout the system prompt asks for, with something in both blocks.
        soft: both blocks in order and one answer; text around and between them is tolerated.
    """

    reasoning: str | None
    answer: str | None
    strict: bool
    soft: bool


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
        Parsed(reasoning='2 + 2 = 4', answer='4', strict=False, soft=True)
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
    def parse(self, completion: str) -> Parsed:
        """Return reasoning, answer and the two checks, in time linear in the text; never raises, whatever it is."""

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

    def parse(self, completion: str) -> Parsed:
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
