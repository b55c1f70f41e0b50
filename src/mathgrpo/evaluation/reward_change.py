"""Did a reward rise? Its values in two evaluations of the same problems, compared problem by problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

from mathgrpo.evaluation.compare import SIGNIFICANT_P, p_text, paired_records
from mathgrpo.evaluation.records import Evaluation, Metric, reward_label
from mathgrpo.text import MINUS, signed

FLIPS = 20_000
"""Sign flips drawn for the test: a p-value near 0.05 is then known to 0.0015."""
EXACT = 12
"""Up to so many differences that are not 0 all their 2^n signs are tried."""


@dataclass(frozen=True, slots=True)
class RewardChange:
    """The paired difference of a reward's mean between two evaluations.

    Attributes:
        name: the reward's.
        before, after: means over the problems that it applies to in both.
        low, high: 95 % interval of the difference, of Student's t over the problems.
        p: two-sided p-value of the sign-flip test that there is none.
        problems: how many that are.
    """

    name: str
    before: float
    after: float
    low: float
    high: float
    p: float
    problems: int

    @property
    def outcome(self) -> str:
        """ "better", "worse" or "no significant change"."""
        if self.p >= SIGNIFICANT_P:
            return "no significant change"
        return "better" if self.after > self.before else "worse"

    @property
    def line(self) -> str:
        """The change in one line; differences without any spread have no interval to speak of."""
        interval = interval_text(self.low, self.high) if self.low < self.high else "the same everywhere"
        return (
            f"reward {reward_label(self.name)} {number(self.before)} → {number(self.after)}, "
            f"{signed(self.after - self.before, 3)}, {interval}, "
            f"{p_text(self.p)}, {self.problems:,} problems, {self.outcome}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The change as a JSON object."""
        return without_infinities(asdict(self)) | {"outcome": self.outcome, "line": self.line}


def without_infinities(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON can have it: None for the bounds of an interval that is not known."""
    return {key: None if value in (-math.inf, math.inf) else value for key, value in record.items()}


def interval_text(low: float, high: float) -> str:
    """Return a 95 % interval for a reader; one difference has none.

    Example:
        >>> interval_text(0.0, 0.5), interval_text(-math.inf, math.inf)
        ('95 % interval [0.000, 0.500]', 'no interval')
    """
    if math.isinf(high):
        return "no interval"
    return f"95 % interval [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Return a reward with three decimals and a true minus sign."""
    return f"{round(value, 3) + 0.0:.3f}".replace("-", MINUS)


def reward_changes(before: Evaluation, after: Evaluation, metric: Metric = "greedy") -> tuple[RewardChange, ...]:
    """Return the change of every reward that both evaluations have; a problem's value is the mean of its completions.

    Raises: UserError if the two evaluations are not on the same problems.
    """
    pairs, shared = paired_records(before, after), [n for n in before.reward_names if n in after.reward_names]
    changes = (
        reward_change(name, [(b.reward(name, metric), a.reward(name, metric)) for b, a in pairs]) for name in shared
    )
    return tuple(change for change in changes if change is not None)


def reward_change(name: str, pairs: Sequence[tuple[float | None, float | None]]) -> RewardChange | None:
    """Return the change over the pairs (before, after) in which the reward applies on both sides; None without any.

    Example:
        >>> change = reward_change("countdown", [(0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (0.0, None)])
        >>> change.problems, [round(x, 3) for x in (change.low, change.high, change.p)]
        (3, [-0.768, 2.101, 0.5])
    """
    known = [(b, a) for b, a in pairs if b is not None and a is not None]
    if not known:
        return None
    low, high, p = paired_change([a - b for b, a in known])
    return RewardChange(name, fmean(b for b, _ in known), fmean(a for _, a in known), low, high, p, len(known))


def unreached(evaluation: Evaluation) -> str:
    """Return a note where a reward decides that pays something, and nothing enough; "" elsewhere."""
    name, _, least = evaluation.settings.correct.rpartition(" >= ")
    every = [c for record in evaluation.records for c in (record.greedy, *record.samples)]
    most = max((value for c in every if (value := c.rewards.get(name)) is not None), default=0.0)
    if not name or any(c.correct for c in every) or most <= 0:
        return ""
    paid = f"pays no held-out completion {least}, {most:g} at most"
    return f"{reward_label(name)} {paid}: evaluation.correct says what counts"


def paired_change(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the 95 % interval of the mean of paired differences, and the p-value that it is 0.

    The interval is mean ± t · s / √n with Student's t of n - 1 degrees of freedom; one difference says nothing:
    (-inf, inf). The p-value is the sign-flip test's, which assumes no distribution.
    Source: Student 1908, "The probable error of a mean", Biometrika 6, 1-25; Fisher 1935, "The Design of Experiments",
    section 21.
    """
    n, mean = len(differences), fmean(differences)
    half = student_t(n - 1) * stdev(differences) / math.sqrt(n) if n > 1 else math.inf
    return mean - half, mean + half, sign_flip_share(differences)


@cache
def student_t(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution, by bisection.

    Example:
        >>> [round(student_t(degrees), 3) for degrees in (1, 2, 10, 499)]
        [12.706, 4.303, 2.228, 1.965]
    """
    low, high = 1.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_mass(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _central_mass(t: float, degrees: int) -> float:
    """Return P(|T| <= t), a finite sum for whole degrees.

    Source: Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(theta), degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total


def sign_flip_share(differences: Sequence[float]) -> float:
    """Return the share of sign flips whose sum is at least as far from 0 as the observed one.

    All flips of few differences; of many FLIPS random ones, the same every time, the observed signs counting as one
    more, so that the share is never 0.
    Source: Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero", SAGMB 9, article 39.
    """
    import numpy as np

    values = np.array([d for d in differences if d], dtype=np.float64)
    reached = abs(values.sum()) * (1 - 1e-12)
    if not reached:
        return 1.0
    if len(values) <= EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
        return float(np.mean(np.abs(signs @ values) >= reached))
    generator, as_far = np.random.default_rng(0), 1
    for _ in range(FLIPS // 1000):
        signs = 1 - 2 * generator.integers(0, 2, (1000, len(values)), dtype=np.int8)
        as_far += int((np.abs(signs @ values) >= reached).sum())
    return as_far / (FLIPS + 1)
