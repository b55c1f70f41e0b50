"""Did this run make its model better, and where does the gain come from: its evaluations compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from mathgrpo.evaluation.compare import Comparison, compare, paired_records, verdict_line
from mathgrpo.evaluation.evaluate import evaluation_names, read_evaluation
from mathgrpo.evaluation.one_scale import on_one_scale
from mathgrpo.evaluation.records import Evaluation, GradedCompletion, Metric, ProblemRecord
from mathgrpo.evaluation.reward_change import RewardChange, reward_changes
from mathgrpo.files import to_json, write_atomically


@dataclass(frozen=True, slots=True)
class Rates:
    """The chain behind an accuracy: accuracy = readable · (worked · right_worked + (1 - worked) · right_quick).

    Attributes:
        readable: share of completions whose answer can be read in the format.
        worked: among those, the share that works the problem out before answering; None if there are none.
        right_worked: accuracy of the readable completions that work; None if there are none.
        right_quick: accuracy of the readable completions that answer at once; None if there are none.
    """

    readable: float
    worked: float | None
    right_worked: float | None
    right_quick: float | None


@dataclass(frozen=True, slots=True)
class GainParts:
    """A gain in accuracy, in percentage points, split by cause; the parts sum to the gain.

    Where a reward decides, `arithmetic` is what completions of one kind got better at, whatever the task is.
    """

    format: float
    working: float
    arithmetic: float

    @property
    def total(self) -> float:
        """The whole gain in points."""
        return self.format + self.working + self.arithmetic

    def as_dict(self) -> dict[str, float]:
        """The parts and their total as a JSON object."""
        return asdict(self) | {"total": self.total}


def gain_parts(before: Evaluation, after: Evaluation, *, metric: Metric = "greedy") -> GainParts:
    """Return how many points of the gain come from format, from choosing to work and from better arithmetic.

    With f = readable, w = worked, a = (right_worked, right_quick) accuracy is A(f, w, a) = f · (w · a1 + (1 - w) · a0).
    A factor's part is its Shapley value: the change of A when this factor alone goes from before to after, averaged
    over the 3! orders in which the three can change. Each order telescopes to the gain, so the parts sum to it.
    A rate that does not exist on one side (no completion of that kind) is taken from the other side: nothing is
    credited to a change nobody saw.
    Source: Kitagawa 1955 (JASA 50, 1168-1194) for two factors; Das Gupta 1993 (US Census P23-186) for several;
    Shorrocks 2013 (J. Econ. Inequality 11, 99-126) for the Shapley form.
    Raises: UserError if the two evaluations are not on the same problems.
    """
    pairs = paired_records(*on_one_scale(before, after))
    mine, other = rates([b for b, _ in pairs], metric), rates([a for _, a in pairs], metric)
    old, new = _filled(mine, other), _filled(other, mine)
    first, last = (old[0], old[1], old[2:]), (new[0], new[1], new[2:])
    return GainParts(*(100 * part for part in shapley(_accuracy, first, last)))


def rates(records: Sequence[ProblemRecord], metric: Metric = "greedy") -> Rates:
    """Return the chain of rates behind the accuracy of some records; every problem has the same weight."""
    weighted = [(c, 1 / len(r.completions(metric))) for r in records for c in r.completions(metric)]
    readable = [(c, weight) for c, weight in weighted if c.readable]
    worked = [(c, weight) for c, weight in readable if c.worked]
    quick = [(c, weight) for c, weight in readable if not c.worked]
    mass = _mass(readable)
    return Rates(
        readable=mass / len(records) if records else 0.0,
        worked=_mass(worked) / mass if readable else None,
        right_worked=_share_right(worked),
        right_quick=_share_right(quick),
    )


def shapley(value: Callable[..., float], first: Sequence[object], last: Sequence[object]) -> list[float]:
    """Return each argument's share of value(*last) - value(*first): its marginal change averaged over all orders.

    Example:
        >>> shapley(lambda length, width: length * width, (2, 3), (4, 5))
        [8.0, 6.0]
    """
    parts = [0.0] * len(first)
    orders = list(permutations(range(len(first))))
    for order in orders:
        arguments = list(first)
        for i in order:
            start = value(*arguments)
            arguments[i] = last[i]
            parts[i] += (value(*arguments) - start) / len(orders)
    return parts


def _accuracy(readable: float, worked: float, right: tuple[float, float]) -> float:
    return readable * (worked * right[0] + (1 - worked) * right[1])


def _filled(mine: Rates, other: Rates) -> tuple[float, ...]:
    """Return the four rates, those that do not exist from the other side."""
    pairs = zip(astuple(mine), astuple(other), strict=True)
    return tuple(next((rate for rate in pair if rate is not None), 0.0) for pair in pairs)


def _mass(weighted: Sequence[tuple[GradedCompletion, float]]) -> float:
    return sum(weight for _, weight in weighted)


def _share_right(weighted: Sequence[tuple[GradedCompletion, float]]) -> float | None:
    return sum(weight for c, weight in weighted if c.correct) / _mass(weighted) if weighted else None


SUBJECTS = {"heldout": "held-out accuracy", "templates": "held-out-template accuracy"}
"""Problem set -> what its verdict line begins with."""

SUFFIXES = {"heldout": "", "templates": "-templates"}
"""Problem set -> what its evaluations' names end with."""


@dataclass(frozen=True, slots=True)
class SetVerdict:
    """The verdict on one problem set under one metric, and how each reward has changed there."""

    problem_set: str
    comparison: Comparison
    parts: GainParts
    rewards: tuple[RewardChange, ...] = ()

    @property
    def line(self) -> str:
        """The verdict in one line."""
        subject = SUBJECTS[self.problem_set]
        return verdict_line(self.comparison, subject if self.comparison.metric == "greedy" else f"sampled {subject}")

    def as_dict(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return {
            "line": self.line, "comparison": self.comparison.as_dict(), "gain_parts": self.parts.as_dict(),
            "rewards": {change.name: change.as_dict() for change in self.rewards},
        }  # fmt: skip


def write_verdict(run_folder: Path) -> dict[str, SetVerdict]:
    """Return the greedy verdict of each problem set evaluated before and after, and write verdict.json with them.

    verdict.json maps "heldout" and "templates" to {line, comparison, gain_parts, rewards}, and "heldout/sampled",
    "templates/sampled" likewise where both evaluations have samples. Nothing to compare: {} and no file.
    Raises: UserError if an evaluation cannot be read or verdict.json cannot be written.
    """
    verdicts = read_verdicts(run_folder)
    if verdicts:
        content = {name: verdict.as_dict() for name, verdict in verdicts.items()}
        write_atomically(run_folder / "verdict.json", to_json(content, indent=1) + "\n")
    return {name: verdict for name, verdict in verdicts.items() if name in SUBJECTS}


def read_verdicts(run_folder: Path) -> dict[str, SetVerdict]:
    """Return every verdict a run folder's evaluations allow, by the names of `write_verdict`."""
    names = {f"{when}{suffix}" for when in ("before", "after") for suffix in SUFFIXES.values()}
    return verdicts_of({n: read_evaluation(run_folder, n) for n in evaluation_names(run_folder) if n in names})


def verdicts_of(evaluations: Mapping[str, Evaluation]) -> dict[str, SetVerdict]:
    """Return the verdict on each problem set evaluated before and after, greedy and, with samples, sampled."""
    verdicts = {}
    for problem_set, suffix in SUFFIXES.items():
        before, after = (evaluations.get(f"{when}{suffix}") for when in ("before", "after"))
        if before is None or after is None:
            continue
        metrics: list[Metric] = ["greedy"]
        if all(record.samples for record in (*before.records, *after.records)):
            metrics.append("sampled")
        for metric in metrics:
            verdicts[problem_set if metric == "greedy" else f"{problem_set}/sampled"] = SetVerdict(
                problem_set, compare(before, after, metric=metric), gain_parts(before, after, metric=metric),
                reward_changes(before, after, metric),
            )  # fmt: skip
    return verdicts
