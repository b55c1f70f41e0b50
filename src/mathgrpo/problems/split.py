"""Which problems are trained on and which are held out: decided by question hash, never by file order or a seed.

The same question is so always on the same side, whatever the run's seed and however the file is sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

from mathgrpo.errors import UserError
from mathgrpo.problems.sets import ProblemSets, distinct, without
from mathgrpo.types import Problem


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
    unique, notes = _distinct(problems, source)
    if 2 * heldout_size > len(unique):
        remedy = f"use {len(unique) // 2} or less" if len(unique) > 1 else "add problems"
        raise UserError(
            f"problems.heldout_size={heldout_size}: {source} has {len(unique)} different problems in one split, "
            f"and at least half must stay for training; {remedy}, or give a held-out file of its own"
        )
    heldout = choose(unique, heldout_size)
    rest, _ = without(unique, heldout)
    notes.append(f"{source} has no held-out split: {len(heldout)} of {len(unique)} problems held out by question hash")
    train, chosen_notes = _chosen(rest, train_size, "train")
    return ProblemSets(train, heldout, notes=(*notes, *chosen_notes))


def separate(
    train: Sequence[Problem], heldout: Sequence[Problem], source: str, *, train_size: int, heldout_size: int
) -> ProblemSets:
    """Return the two sets of a source that has two splits.

    What is anywhere in the held-out split leaves training, also where only a part of that split is evaluated on.

    Raises:
        UserError: nothing is left to train on.
    """
    unique_train, train_notes = _distinct(train, "train")
    unique_heldout, heldout_notes = _distinct(heldout, "held-out")
    rest, num_common = without(unique_train, unique_heldout)
    if not rest:
        raise UserError(
            f"problems.source={source}: every one of its {len(unique_train)} training problems is "
            "in the held-out split too; give two different splits, or one split for both to hold out a part of it"
        )
    notes = [*train_notes, *heldout_notes]
    if num_common:
        notes.append(f"train: {num_common} of {len(unique_train)} problems dropped, they are in the held-out split")
    chosen_train, chosen_train_notes = _chosen(rest, train_size, "train")
    chosen_heldout, chosen_heldout_notes = _chosen(unique_heldout, heldout_size, "held-out")
    return ProblemSets(chosen_train, chosen_heldout, notes=(*notes, *chosen_train_notes, *chosen_heldout_notes))


def _distinct(problems: Sequence[Problem], label: str) -> tuple[tuple[Problem, ...], list[str]]:
    """Return the problems with each question once, and a note when any was repeated."""
    unique, num_repeats, num_disagreeing = distinct(problems)
    if not num_repeats:
        return unique, []
    disagreeing = f", {num_disagreeing} of them with another answer" if num_disagreeing else ""
    return unique, [f"{label}: {num_repeats} repeated problems dropped{disagreeing}"]


def _chosen(problems: tuple[Problem, ...], size: int, label: str) -> tuple[tuple[Problem, ...], list[str]]:
    """Return `size` of the problems, and a note when that is not all of them."""
    chosen = choose(problems, size)
    if len(chosen) == len(problems):
        return chosen, []
    return chosen, [f"{label}: {len(chosen)} of {len(problems)} problems, chosen by question hash"]
