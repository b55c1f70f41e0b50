"""What a built-in reward is: one function of one completion with its facts, called as TRL calls reward functions.

A reward's docstring is its catalogue entry. First paragraph: what it pays ("Return 1 for ..."); further paragraphs:
how, for a reader of the code; then "Gaming:", how a model could earn it without what it is meant for, and "Source:",
where the formula comes from. Command line and documentation show these (`catalogue_page.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        columns: the problem's: answer (the gold), question, and whatever else it has.
        token_ids: the completion's, the end token included; None where they are not known.
        max_new_tokens: the run's limit, 0 where it is not known.
        opened: what the prompt has begun of the completion ("<think>"), "" for nothing, None where it is not known.
    """

    text: str
    fmt: Format
    columns: Mapping[str, Any] = field(default_factory=dict)
    token_ids: Sequence[int] | None = None
    max_new_tokens: int = 0
    opened: str | None = None

    @property
    def whole(self) -> str:
        """The completion with what the prompt has begun of it."""
        return (self.opened or "") + self.text

    @property
    def gold(self) -> str:
        """The gold answer. Raises UserError where the caller gave none."""
        gold: str | None = self.columns.get("answer")
        if gold is None:
            raise UserError("needs the column answer, the gold answers, which is not there")
        return gold

    @property
    def question(self) -> str:
        """The question, "" where the caller gave none."""
        return self.columns.get("question") or ""

    @functools.cached_property
    def graded(self) -> Graded:
        """What the grader says of it, asked once."""
        return grade_completion(self.text, self.gold, self.fmt, question=self.question, opened=self.opened)

    @property
    def right(self) -> bool:
        """The format's one final answer is correct."""
        return self.graded.verdict == "correct"


def rows_of(
    texts: Sequence[str],
    fmt: Format,
    columns: Mapping[str, Sequence[Any]],
    completion_ids: Sequence[Sequence[int]] | None = None,
    max_new_tokens: int = 0,
    opened: Sequence[str | None] | None = None,
) -> list[Row]:
    """Return completions as rewards see them; columns, ids and `opened` have one value a completion."""
    ids = [None] * len(texts) if completion_ids is None else completion_ids
    begun = [None] * len(texts) if opened is None else opened
    each = ({name: values[place] for name, values in columns.items()} for place in range(len(texts)))
    return [Row(t, fmt, own, id_, max_new_tokens, o) for t, own, id_, o in zip(texts, each, ids, begun, strict=True)]


@dataclass(frozen=True)
class Reward:
    """A built-in reward; made by `reward`.

    Attributes:
        name: as in a recipe.
        function: (row) or, of a reward with settings, (row, settings) -> value; None: does not apply.
        family: one of FAMILIES of the catalogue's page.
        pay: the bounds of its values, or a function of its settings that returns them.
        settings: the default ones, in a suite the recipe's; None: it takes none.
        columns: problem columns it needs beside question and answer.
        needs_tokens: without token ids it does not apply.
        pays_right: it pays for being right, so that it can stand without `correct`.
    """

    name: str
    function: Callable[..., float | None]
    family: str
    pay: Pay | Callable[[Any], Pay]
    settings: Section | None = None
    columns: tuple[str, ...] = ()
    needs_tokens: bool = False
    pays_right: bool = False

    def value(self, row: Row) -> float | None:
        """Return what a completion earns, None where the reward does not apply."""
        if self.needs_tokens and row.token_ids is None:
            return None
        value = self.function(row, *self.own)
        return None if value is None else value + 0.0  # a float, and no -0.0

    @property
    def own(self) -> tuple[Section, ...]:
        """What its functions take beside a row: the settings, if it has any."""
        return () if self.settings is None else (self.settings,)

    @property
    def bounds(self) -> Pay:
        """What it can return under its settings."""
        return self.pay if isinstance(self.pay, Pay) else self.pay(*self.own)

    @property
    def sound(self) -> bool:
        """It is no copy of a reference system, faults included: the checks of `build_suite` hold for it."""
        return not self.family.startswith("reference")

    @property
    def __name__(self) -> str:
        """The function's name, which trainers show."""
        return self.function.__name__

    def __call__(
        self,
        prompts: Any,
        completions: Completions,
        response_format: Format | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        max_new_tokens: int = 0,
        settings: Section | None = None,
        opened: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one value a completion, called as TRL does. Without a format: xml; settings: other than its own."""
        reward = self if settings is None else replace(self, settings=settings)
        needed = ("answer", "question", *self.columns)
        known = {name: columns[name] for name in needed if columns.get(name) is not None}
        fmt = response_format or get_format("xml")
        rows = rows_of(completion_texts(completions), fmt, known, completion_ids, max_new_tokens, opened)
        return [reward.value(row) for row in rows]


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
        >>> short(prompts=["?"], completions=["brief"])
        [1.0]
    """
    return lambda function: Reward(name or function.__name__, function, family, pay, **facts)
