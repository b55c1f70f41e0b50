"""What a built-in reward is: one function of one completion with its facts, called as TRL calls reward functions.

A reward's docstring is its catalogue entry. First paragraph: what it pays ("Return 1 for ..."); further paragraphs:
how, for a reader of the code; then "Gaming:", how a model could earn it without what it is meant for, and "Source:",
where the formula comes from. Command line and documentation show these.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mathgrpo.answers import Graded, grade_completion
from mathgrpo.config.recipe import Section
from mathgrpo.errors import UserError
from mathgrpo.formats import Format, get_format
from mathgrpo.rewards.checked_calls import Completions, completion_texts


@dataclass(frozen=True, slots=True)
class Pay:
    """What a reward can return.

    Attributes:
        low, high: bounds of every value; high or low infinite where there is none.
        wrong: the most that a wrong answer earns.
        right: the least that a right answer in the format earns; below 0 for a penalty.
    """

    low: float
    high: float
    wrong: float = 0.0
    right: float = 0.0


@dataclass(frozen=True)
class Row:
    """One completion with its problem, as a reward sees it.

    Attributes:
        text: the completion.
        fmt: the run's response format.
        columns: the problem's further columns.
        token_ids: the completion's, the end token included; None where they are not known.
        max_new_tokens: the run's limit, 0 where it is not known.
        known_gold, known_grade: None where the caller gave none.
    """

    text: str
    fmt: Format
    known_gold: str | None = None
    question: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    token_ids: Sequence[int] | None = None
    max_new_tokens: int = 0
    known_grade: Graded | None = None

    @property
    def gold(self) -> str:
        """The gold answer. Raises UserError where the caller gave none."""
        if self.known_gold is None:
            raise UserError("needs the column answer, the gold answers, which is not there")
        return self.known_gold

    @functools.cached_property
    def graded(self) -> Graded:
        """What the grader says of it: what came with it, else graded here."""
        return self.known_grade or grade_completion(self.text, self.gold, self.fmt, question=self.question)

    @property
    def right(self) -> bool:
        """The format's one final answer is correct."""
        return self.graded.verdict == "correct"


@dataclass(frozen=True)
class Reward:
    """A built-in reward; made by `reward`.

    Attributes:
        name: as in a recipe.
        function: (row) or, of a reward with settings, (row, settings) -> value; None: does not apply.
        family: one of FAMILIES.
        pay: the bounds of its values, or a function of its settings that returns them.
        why: (row, value) or (row, value, settings) -> the value in words; None: its first paragraph says all.
        settings: the class of its settings; None: it takes none.
        columns: problem columns it needs beside question and answer.
        needs_tokens: without token ids it does not apply.
        pays_right: it pays for being right, so that it can stand without `correct`.
    """

    name: str
    function: Callable[..., float | None]
    family: str
    pay: Pay | Callable[[Any], Pay]
    why: Callable[..., str] | None = None
    settings: type[Section] | None = None
    columns: tuple[str, ...] = ()
    needs_tokens: bool = False
    pays_right: bool = False

    def __call__(
        self,
        prompts: Any,
        completions: Completions,
        answer: Sequence[str] | None = None,
        question: Sequence[str] | None = None,
        response_format: Format | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        completion_grades: Sequence[Graded] | None = None,
        max_new_tokens: int = 0,
        settings: Section | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one value a completion. Without a format: xml. completion_grades: what is graded already."""
        texts = completion_texts(completions)
        fmt, empty = response_format or get_format("xml"), [None] * len(texts)
        needed = {name: columns[name] for name in self.columns if columns.get(name) is not None}
        given = (
            texts, empty if answer is None else answer, [""] * len(texts) if question is None else question,
            empty if completion_ids is None else completion_ids, completion_grades or empty, range(len(texts)),
        )  # fmt: skip
        rows = (
            Row(text, fmt, gold, asked, {name: needed[name][i] for name in needed}, ids, max_new_tokens, graded)
            for text, gold, asked, ids, graded, i in zip(*given, strict=True)
        )
        return [self.value(row, settings) for row in rows]

    def value(self, row: Row, settings: Section | None = None) -> float | None:
        """Return what a completion earns, None where the reward does not apply."""
        return None if self.needs_tokens and row.token_ids is None else self.function(row, *self._own(settings))

    def in_words(self, row: Row, value: float | None, settings: Section | None = None) -> str:
        """Return why a completion earns this value."""
        if self.needs_tokens and row.token_ids is None:
            return "does not apply: there are no token ids"
        return self.pays if self.why is None else self.why(row, value, *self._own(settings))

    def pay_with(self, settings: Section | None) -> Pay:
        """Return the bounds under these settings; the default ones for None."""
        return self.pay if isinstance(self.pay, Pay) else self.pay(*self._own(settings))

    def _own(self, settings: Section | None) -> tuple[Section, ...]:
        return () if self.settings is None else (settings or self.settings(),)

    @property
    def sound(self) -> bool:
        """It is no copy of a reference system, faults included: the checks of `build_suite` hold for it."""
        return not self.family.startswith("reference")

    @property
    def pays(self) -> str:
        """What for and how much: the docstring's first paragraph."""
        return " ".join(self._doc.partition("\n\n")[0].split()).removeprefix("Return ").removesuffix(".")

    @property
    def gaming(self) -> str:
        """How a model could earn it without what it is meant for."""
        return self._fact("Gaming")

    @property
    def source(self) -> str:
        """Where the formula comes from, "" for our own."""
        return self._fact("Source")

    def _fact(self, label: str) -> str:
        found = re.search(rf"^{label}: (.+(?:\n .+)*)", self._doc, re.MULTILINE)
        return " ".join(found[1].split()).removesuffix(".") if found else ""

    @property
    def _doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def __name__(self) -> str:
        """The function's name, which trainers show."""
        return self.function.__name__


def reward(
    *, family: str, pay: Pay | Callable[[Any], Pay], name: str = "", **facts: Any
) -> Callable[[Callable[..., float | None]], Reward]:
    """Return the decorator that makes a function of a `Row` a reward, under its own name or another.

    facts: further fields of `Reward`.

    Example:
        >>> @reward(family="form", pay=Pay(0, 1, wrong=1))
        ... def short(row):
        ...     '''Return 1 for at most 9 characters, else 0.
        ...
        ...     Gaming: saying nothing.
        ...     '''
        ...     return float(len(row.text) <= 9)
        >>> short(prompts=["?"], completions=["brief"]), short.pays, short.gaming
        ([1.0], '1 for at most 9 characters, else 0', 'saying nothing')
    """
    assert family in FAMILIES, family
    return lambda function: Reward(name or function.__name__, function, family, pay, **facts)


FAMILIES: dict[str, str] = {
    "answer": "The answer",
    "form": "The form",
    "steps": "Verified steps",
    "constraint": "Constraints",
    "length": "Length",
    "language": "Language and fluency",
    "reference 1": "Reference system 1: Qwen2.5-0.5B with XML tags, faults included",
    "reference 2": "Reference system 2: multi-reward, working-out format, faults included",
    "reference 3": "Reference system 3: step verification, faults included",
    "reference 4": "Reference system 4: the one-shot notebook, faults included",
}
"""Family -> heading. Of reference system 4 only the three rewards that system 1 has otherwise stand by themselves."""
