"""Did a script's model earn more? Two evaluations of the same rows, compared row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch

from mathgrpo.evaluation.accuracy import mean_interval
from mathgrpo.evaluation.compare import SIGNIFICANT_P, p_text
from mathgrpo.files import to_json, write_atomically
from mathgrpo.text import signed

FLIPS = 20_000
"""Sign flips drawn for the paired test: a p-value near 0.05 is then known to 0.0015."""


@dataclass(frozen=True, slots=True)
class RewardVerdict:
    """The paired difference of mean rewards between two evaluations, before and after some steps.

    Attributes:
        low, high: 95 % interval of the difference.
        p: two-sided p-value of the paired sign-flip test that there is none.
    """

    name: str
    before_step: int
    after_step: int
    before: float
    after: float
    low: float
    high: float
    p: float
    rows: int

    @property
    def line(self) -> str:
        """The verdict in one line."""
        text = (
            f"{self.name} reward {self.before:.3f} → {self.after:.3f}, {signed(self.after - self.before, 3)}, 95 % "
            f"interval [{self.low:.3f}, {self.high:.3f}], {p_text(self.p)}, {self.rows:,} rows, steps "
            f"{self.before_step} to {self.after_step}"
        )
        if self.p >= SIGNIFICANT_P:
            return f"{text}, no significant change"
        return f"{text}, worse" if self.after < self.before else text


@dataclass(frozen=True, slots=True)
class RewardsAt:
    """What an evaluation found: the mean reward of each row's completions, NaN where no reward applied."""

    step: int
    rewards: tuple[float, ...]


def reward_verdict(name: str, before: RewardsAt, after: RewardsAt) -> RewardVerdict | None:
    """Return the comparison of two evaluations of the same rows; None where no row has a reward in both.

    Example:
        >>> verdict = reward_verdict("eval", RewardsAt(0, (0.0,) * 8), RewardsAt(5, (1.0,) * 8))
        >>> verdict.p < 0.05, verdict.after - verdict.before
        (True, 1.0)
    """
    pairs = [(b, a) for b, a in zip(before.rewards, after.rewards, strict=True) if b == b and a == a]
    if not pairs:
        return None
    differences = [a - b for b, a in pairs]
    low, high = mean_interval(differences, float("-inf"), float("inf"))
    means = fmean(b for b, _ in pairs), fmean(a for _, a in pairs)
    return RewardVerdict(name, before.step, after.step, *means, low, high, sign_flip_share(differences), len(pairs))


def sign_flip_share(differences: Sequence[float]) -> float:
    """Return the share of random sign flips whose sum is at least as far from 0 as the observed one.

    The observed signs count as one flip (Phipson and Smyth 2010), so it is never 0. The flips are the same every time.
    """
    values = torch.tensor(differences, dtype=torch.float64)
    generator, as_far, observed = torch.Generator().manual_seed(0), 1, float(values.sum().abs())
    for _ in range(FLIPS // 1000):
        signs = torch.randint(0, 2, (1000, len(values)), generator=generator, dtype=torch.int8).double() * 2 - 1
        as_far += int(((signs @ values).abs() >= observed * (1 - 1e-12)).sum())
    return as_far / (FLIPS + 1)


def write_reward_verdicts(folder: Path, verdicts: Sequence[RewardVerdict]) -> None:
    """Write verdict.json: set -> its line and numbers."""
    content = {verdict.name: {"line": verdict.line, **asdict(verdict)} for verdict in verdicts}
    write_atomically(folder / "verdict.json", to_json(content, indent=1) + "\n")
