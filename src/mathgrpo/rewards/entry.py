"""What the catalogue knows of a reward: its function, and the facts that documentation and checks are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mathgrpo.config.recipe import Section
from mathgrpo.rewards.graded_rows import Row
from mathgrpo.rewards.signature import RewardFunction

Family = Literal["answer", "form", "steps", "constraint", "length", "language", "reference 1", "reference 2",
                 "reference 3", "reference 4"]  # fmt: skip

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


@dataclass(frozen=True, slots=True)
class Judged:
    """One completion with a reward's value for it, to be put into words.

    Attributes:
        row: completion, problem and grades.
        value: what the reward returned; None: does not apply.
        columns: the problem's further columns.
        settings: the reward's settings, None where it takes none.
        tokens: completion ids, None where they are not known.
        max_new_tokens: the run's limit, 0 where it is not known.
    """

    row: Row
    value: float | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    settings: Section | None = None
    tokens: tuple[int, ...] | None = None
    max_new_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A built-in reward.

    Attributes:
        function: in TRL's signature.
        pays: what for and how much, in a sentence.
        pay: its bounds, or a function of its settings that returns them.
        gaming: how a model could earn it without what it is meant for.
        why: puts a value into words.
        source: where the formula comes from, "" for our own.
        settings: the class of its settings; None: it takes none.
        columns: problem columns it needs beside question and answer.
        needs_tokens: without token ids it does not apply.
        pays_right: it pays for being right, so that it can stand without `correct`.
    """

    function: RewardFunction
    family: Family
    pays: str
    pay: Pay | Callable[[Any], Pay]
    gaming: str
    why: Callable[[Judged], str]
    source: str = ""
    settings: type[Section] | None = None
    columns: tuple[str, ...] = ()
    needs_tokens: bool = False
    pays_right: bool = False

    @property
    def sound(self) -> bool:
        """It is no copy of a reference system, faults included: the checks of `build_suite` hold for it."""
        return not self.family.startswith("reference")

    def pay_with(self, settings: Section | None) -> Pay:
        """Return the bounds under these settings; the default ones for None."""
        if isinstance(self.pay, Pay):
            return self.pay
        return self.pay(settings if settings is not None or self.settings is None else self.settings())
