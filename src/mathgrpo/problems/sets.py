"""The problems of a run: what is trained on and what is held out, without a common question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mathgrpo.errors import UserError
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


def choose(problems: Sequence[Problem], size: int) -> tuple[Problem, ...]:
    """Return the `size` problems with the lowest question hash, in their given order; all when there are fewer.

    Problems are expected to be distinct.
    """
    if len(problems) <= size:
        return tuple(problems)
    ids = [problem.id for problem in problems]
    chosen = set(sorted(ids)[:size])
    return tuple(problem for name, problem in zip(ids, problems, strict=True) if name in chosen)


def hold_out(problems: Sequence[Problem], source: str, *, train_size: int, heldout_size: int) -> ProblemSets:
    """Return the two sets of a source that has one split: `heldout_size` problems set aside by question hash.

    Raises:
        UserError: less than half would stay for training.
    """
    unique, repeats = _distinct(problems, source)
    if 2 * heldout_size > len(unique):
        remedy = f"use {len(unique) // 2} or less" if len(unique) > 1 else "add problems"
        raise UserError(
            f"problems.heldout_size={heldout_size}: {source} has {len(unique)} different problems in one split, "
            f"and at least half must stay for training; {remedy}, or give a held-out file of its own"
        )
    heldout = choose(unique, heldout_size)
    train, left = _chosen(without(unique, heldout)[0], train_size, "train")
    held = f"{source} has no held-out split: {len(heldout)} of {len(unique)} problems held out by question hash"
    return ProblemSets(train, heldout, notes=(*repeats, held, *left))


def separate(
    train: Sequence[Problem], heldout: Sequence[Problem], source: str, *, train_size: int, heldout_size: int
) -> ProblemSets:
    """Return the two sets of a source that has two splits.

    What is anywhere in the held-out split leaves training, also where only a part of that split is evaluated on.

    Raises:
        UserError: nothing is left to train on.
    """
    unique_train, repeats = _distinct(train, "train")
    unique_heldout, heldout_repeats = _distinct(heldout, "held-out")
    rest, num_common = without(unique_train, unique_heldout)
    if not rest:
        raise UserError(
            f"problems.source={source}: every one of its {len(unique_train)} training problems is "
            "in the held-out split too; give two different splits, or one split for both to hold out a part of it"
        )
    dropped = f"train: {num_common} of {len(unique_train)} problems dropped, they are in the held-out split"
    chosen_train, left = _chosen(rest, train_size, "train")
    chosen_heldout, heldout_left = _chosen(unique_heldout, heldout_size, "held-out")
    notes = (*repeats, *heldout_repeats, *([dropped] if num_common else []), *left, *heldout_left)
    return ProblemSets(chosen_train, chosen_heldout, notes=notes)


def heldout_alone(problems: Sequence[Problem], size: int) -> ProblemSets:
    """Return `size` of the problems to evaluate on, and none to train on."""
    unique, repeats = _distinct(problems, "held-out")
    heldout, left = _chosen(unique, size, "held-out")
    return ProblemSets((), heldout, notes=(*repeats, *left))


def _distinct(problems: Sequence[Problem], label: str) -> tuple[tuple[Problem, ...], list[str]]:
    """Return the problems with each question once, and a note when any was repeated."""
    unique, num_repeats, num_disagreeing = distinct(problems)
    disagreeing = f", {num_disagreeing} of them with another answer" if num_disagreeing else ""
    return unique, [f"{label}: {num_repeats} repeated problems dropped{disagreeing}"] if num_repeats else []


def _chosen(problems: tuple[Problem, ...], size: int, label: str) -> tuple[tuple[Problem, ...], list[str]]:
    """Return `size` of the problems, and a note when that is not all of them."""
    chosen = choose(problems, size)
    note = f"{label}: {len(chosen)} of {len(problems)} problems, chosen by question hash"
    return chosen, [note] if len(chosen) < len(problems) else []
