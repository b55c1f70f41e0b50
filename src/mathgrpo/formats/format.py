"""What a response format is: the one object that owns its prompt, its writer, its parser and its two checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


class Layout(Protocol):
    """How reasoning and answer are laid out in a completion."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks a completion must hold once each, in this order."""
        ...

    def write(self, reasoning: str, answer: str) -> str:
        """Return a completion with this reasoning and this answer."""
        ...

    def parse(self, completion: str) -> Parsed:
        """Return reasoning, answer and the two checks of a completion, in time linear in its length."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """One response format.

    Attributes:
        name: as in a recipe's `format.name`.
        system_prompt: what the model is told.
        layout: how a completion is written and read.
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
    layout: Layout
    question_prefix: str = ""
    question_suffix: str = ""
    leaky: bool = False

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

    def write(self, reasoning: str, answer: str) -> str:
        """Return a worked solution as the completion a model should give."""
        return self.layout.write(reasoning, answer)

    def parse(self, completion: str) -> Parsed:
        """Return reasoning, answer and the two checks of a completion; never raises, whatever the text."""
        return self.layout.parse(completion)
