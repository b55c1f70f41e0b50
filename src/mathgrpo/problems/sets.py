"""The problems of a run: what is trained on and what is held out, without a common question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mathgrpo.types import Problem


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """Training and held-out problems.

    Attributes:
        train: problems to train on.
        heldout: problems to evaluate on; none is in train.
        heldout_templates: problems of templates never trained on; empty unless problems are generated.
        notes: what was dropped or chosen on the way, one line each, for the run's record.

    Raises:
        ValueError: a training problem is held out too. Evaluation would then measure memory.
    """

    train: tuple[Problem, ...]
    heldout: tuple[Problem, ...]
    heldout_templates: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _, num_common = without(self.train, (*self.heldout, *self.heldout_templates))
        if num_common:
            raise ValueError(f"{num_common} of {len(self.train)} training problems are held out too")


def distinct(problems: Sequence[Problem]) -> tuple[tuple[Problem, ...], int, int]:
    """Return the problems with each question once (the first is kept), how many were repeats, how many disagreed.

    A repeat disagrees when its gold answer is written differently.

    Example:
        >>> two, three = Problem("1 + 1?", "2"), Problem("1  + 1?", "3")
        >>> distinct([two, two, three])
        ((Problem(question='1 + 1?', answer='2', solution=None, template='', columns={}),), 2, 1)
    """
    first: dict[str, Problem] = {}
    num_disagreeing = 0
    for problem in problems:
        kept = first.setdefault(problem.id, problem)
        num_disagreeing += kept.answer != problem.answer
    return tuple(first.values()), len(problems) - len(first), num_disagreeing


def without(problems: Sequence[Problem], heldout: Sequence[Problem]) -> tuple[tuple[Problem, ...], int]:
    """Return the problems that are not held out, and how many were."""
    heldout_ids = {problem.id for problem in heldout}
    kept = tuple(problem for problem in problems if problem.id not in heldout_ids)
    return kept, len(problems) - len(kept)
