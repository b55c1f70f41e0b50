"""Did it get better? Two evaluations on the same problems, compared problem by problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import comb, lcm, sqrt
from typing import Any

from mathgrpo.errors import UserError
from mathgrpo.evaluation.one_scale import on_one_scale
from mathgrpo.evaluation.records import (
    ANSWER,
    Evaluation,
    Metric,
    ProblemRecord,
    counted_by,
    mean_interval,
    wilson_interval,
)
from mathgrpo.text import signed

SIGNIFICANT_P = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paired difference of two evaluations; accuracies are shares in [0, 1], differences too (not points).

    Attributes:
        metric: "greedy" or "sampled" (mean over a problem's samples).
        before, after: accuracy of each evaluation.
        low, high: 95 % interval of the difference after - before.
        p: two-sided exact p-value that there is no difference.
        problems: number of pairs.
        fixed, broken: problems whose accuracy rose, fell.
        method: how interval and p-value were computed.
        correct: what both count as correct, see `EvaluationSettings`.
    """

    metric: Metric
    before: float
    after: float
    low: float
    high: float
    p: float
    problems: int
    fixed: int
    broken: int
    method: str
    correct: str = ANSWER

    @property
    def difference(self) -> float:
        """after - before, a share."""
        return self.after - self.before

    @property
    def significant(self) -> bool:
        """True if p < 0.05."""
        return self.p < SIGNIFICANT_P

    def as_dict(self) -> dict[str, Any]:
        """The comparison as a JSON object, with difference and significant spelt out."""
        return asdict(self) | {"difference": self.difference, "significant": self.significant}


def compare(before: Evaluation, after: Evaluation, *, metric: Metric = "greedy") -> Comparison:
    """Return the paired comparison of two evaluations on the same problems.

    greedy: Newcombe's paired score interval and the exact McNemar test. sampled: normal interval of the mean paired
    difference (the problem is the unit) and the exact sign-flip test, which is McNemar's for one sample a problem.
    Evaluations that count different things as correct are brought to one scale first (`on_one_scale`).
    Raises: UserError if the problems differ, there are none, or a "sampled" comparison lacks samples.
    """
    before, after = on_one_scale(before, after)
    pairs = paired_records(before, after)
    if metric == "sampled" and not all(b.samples and a.samples for b, a in pairs):
        raise UserError(
            "metric=sampled: an evaluation has no samples; set evaluation.samples to 1 or more, or compare "
            "with metric=greedy"
        )
    shares = [(b.accuracy(metric), a.accuracy(metric)) for b, a in pairs]
    n = len(pairs)
    fixed, broken = sum(a > b for b, a in shares), sum(a < b for b, a in shares)
    if metric == "greedy":
        both = sum(a == b == 1 for b, a in shares)
        low, high = newcombe_interval(both, broken, fixed, n - both - broken - fixed)
        p, method = mcnemar_p(fixed, broken), "Newcombe paired score interval, exact McNemar test"
    else:
        low, high = mean_interval([a - b for b, a in shares], -1.0, 1.0)
        p, method = sign_flip_p(_whole_differences(pairs)), "normal interval of paired means, exact sign-flip test"
    mean_before, mean_after = sum(b for b, _ in shares) / n, sum(a for _, a in shares) / n
    correct = after.settings.correct
    return Comparison(metric, mean_before, mean_after, low, high, p, n, fixed, broken, method, correct)


def paired_records(before: Evaluation, after: Evaluation) -> list[tuple[ProblemRecord, ProblemRecord]]:
    """Return (before, after) records of the same problem, in the order of `before`.

    A problem that occurs twice is paired first with first, second with second.
    Raises: UserError if either evaluation lacks a problem of the other, or both are empty.
    """
    if not before.records:
        raise UserError("before: the evaluation has no problems; evaluate at least one")
    waiting: dict[str, list[ProblemRecord]] = {}
    for record in reversed(after.records):
        waiting.setdefault(record.id, []).append(record)
    pairs = [(record, waiting[record.id].pop()) for record in before.records if waiting.get(record.id)]
    if len(pairs) < max(len(before.records), len(after.records)):
        raise UserError(
            f"before and after share {len(pairs)} problems of {len(before.records)} and "
            f"{len(after.records)}; a paired comparison needs the same problems: evaluate both on one set"
        )
    return pairs


def mcnemar_p(fixed: int, broken: int) -> float:
    """Return the two-sided exact McNemar p-value: the binomial test of fixed against broken at 1/2.

    Source: McNemar 1947, Psychometrika 12 (2), 153-157; exact form as in Fagerland, Lydersen, Laake 2013.

    Example:
        >>> mcnemar_p(5, 0)
        0.0625
    """
    discordant = fixed + broken
    tail = sum(comb(discordant, i) for i in range(min(fixed, broken) + 1))
    # Whole numbers until the one division: no rounding, and no underflow however many pairs there are.
    return float(min(Fraction(2 * tail, 2**discordant), Fraction(1)))


def newcombe_interval(both: int, only_before: int, only_after: int, neither: int) -> tuple[float, float]:
    """Return the 95 % interval of the paired difference of two proportions (after - before).

    Wilson intervals of both proportions, joined by square-and-add with the correlation phi of the pairs; phi's
    numerator is continuity-corrected when positive. Keeps to [-1, 1] and stays sound for small counts, where the
    Wald interval fails.
    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17, 2635-2650, method 10.
    """
    n = both + only_before + only_after + neither
    after, before = (both + only_after) / n, (both + only_before) / n
    low_a, high_a = wilson_interval(both + only_after, n)
    low_b, high_b = wilson_interval(both + only_before, n)
    phi = _phi(both, only_after, only_before, neither, n)
    below = _joined(after - low_a, high_b - before, phi)
    above = _joined(high_a - after, before - low_b, phi)
    return after - before - below, after - before + above


def _phi(e: int, f: int, g: int, h: int, n: int) -> float:
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    if margins == 0:
        return 0.0
    excess = e * h - f * g
    return (max(excess - n / 2, 0.0) if excess > 0 else excess) / sqrt(margins)


def _joined(one: float, other: float, phi: float) -> float:
    return sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))


def sign_flip_p(differences: Sequence[int]) -> float:
    """Return the two-sided exact p-value of the paired sign-flip (randomisation) test on whole differences.

    Under no effect every difference is as likely to have the other sign; the exact distribution of the sum is built
    by convolution, and p is its mass at least as far from 0 as the observed sum. Differences of -1, 0, 1 give the
    exact McNemar test.
    Source: Fisher 1935, "The Design of Experiments", section 21.

    Example:
        >>> sign_flip_p([1, 1, 1, 1, 1])
        0.0625
    """
    import numpy as np

    sizes = [abs(d) for d in differences if d]
    observed, reach = abs(sum(differences)), sum(sizes)
    if observed == 0:
        return 1.0
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for size in sizes:
        # np.roll wraps nothing round: mass never leaves [-reach, reach].
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    return min(float(2 * chances[reach + observed :].sum()), 1.0)


def _whole_differences(pairs: Sequence[tuple[ProblemRecord, ProblemRecord]]) -> list[int]:
    unit = lcm(*(len(r.samples) for pair in pairs for r in pair))
    return [
        sum(c.correct for c in a.samples) * (unit // len(a.samples))
        - sum(c.correct for c in b.samples) * (unit // len(b.samples))
        for b, a in pairs
    ]


def verdict_line(comparison: Comparison, subject: str = "held-out accuracy") -> str:
    """Return the comparison in one line for a reader; says so when the change is not significant or is a loss.

    What decides stands behind the subject where it is a reward: "held-out accuracy (correct by countdown ≥ 1)".
    Example: held-out accuracy 41.2 % → 63.8 %, +22.6 points, 95 % interval [18.9, 26.3], p < 0.001, 500 problems
    """
    line = (
        f"{subject}{counted_by(comparison.correct)} {100 * comparison.before:.1f} % → {100 * comparison.after:.1f} %, "
        f"{signed_points(comparison.difference)} points, 95 % interval [{points(comparison.low)}, "
        f"{points(comparison.high)}], {p_text(comparison.p)}, {comparison.problems:,} problems"
    )
    if not comparison.significant:
        return f"{line}, no significant change"
    return f"{line}, worse" if comparison.difference < 0 else line


def points(share: float) -> str:
    """Return a share as percentage points with one decimal and a true minus sign.

    Example:
        >>> points(-0.021)
        '−2.1'
    """
    return signed_points(share).removeprefix("+")


def signed_points(share: float) -> str:
    """Return a change in percentage points with its sign: "+22.6", "−2.1", "0.0"."""
    return signed(100 * share, 1)


def p_text(p: float) -> str:
    """Return a p-value as written in a paper: "p < 0.001", else three decimals."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
