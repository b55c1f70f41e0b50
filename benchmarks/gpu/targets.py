"""What the project promises of one H100 or H200, and whether a results file shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.driver import short
from benchmarks.gpu.record import Line

CARDS = ("H100", "H200")
"""The targets are for these; on another card they are shown, and nothing is judged."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound of one number.

    Attributes:
        number: its name in the case's numbers.
        least: whether the number must be at least `bound`; else at most.
    """

    what: str
    stage: str
    case: str
    number: str
    bound: float
    least: bool
    unit: str = ""

    def measured(self, lines: Mapping[tuple[str, str], Line]) -> float | None:
        """Return the number, None where it was not measured."""
        line = lines.get((self.stage, self.case))
        value: Any = line["numbers"].get(self.number) if line else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def is_met(self, value: float) -> bool:
        """Return whether a value is within the bound; NaN never is."""
        return value >= self.bound if self.least else value <= self.bound

    @property
    def wanted(self) -> str:
        """The bound as a reader sees it."""
        return f"{'≥' if self.least else '≤'} {short(self.bound)}{self.unit}"


TARGETS = (
    Target("decoding, 512 rows, 200 + 200 tokens", "decoding", "512 rows", "tokens_per_s", 250_000, True, " tok/s"),
    Target("decoding, 64 rows, 200 + 200 tokens", "decoding", "64 rows", "tokens_per_s", 80_000, True, " tok/s"),
    Target("a whole step, 64 × 8, 200 + 200 tokens", "whole_step", "five steps", "step_s", 1.8, False, " s"),
    Target("update, share of the measured peak (MFU)", "updating", "as a run does it", "mfu", 0.35, True),
    Target("a step against TRL, `generate`", "against_trl", "trl generate", "ratio", 5.0, True, "×"),
    Target("a step against TRL, static cache + compile", "against_trl", "trl static compile", "ratio", 2.5, True, "×"),
    Target("update's memory over that of full logits, 8 × 1,024", "updating", "chunked against full logits",
           "memory_ratio", 1 / 3, False),
    Target("sampler against trainer: mean difference of log-probabilities, over bfloat16's own", "correctness",
           "sampler against trainer", "over_noise", 1.5, False, "×"),
)  # fmt: skip


def target_rows(lines: Mapping[tuple[str, str], Line], card: str) -> list[tuple[str, str, str, str]]:
    """Return (what, target, measured, met or not) of every target."""
    judged = any(name in card for name in CARDS)
    rows = []
    for target in TARGETS:
        value = target.measured(lines)
        if value is None:
            rows.append((target.what, target.wanted, "not yet measured", ""))
            continue
        verdict = ("met" if target.is_met(value) else "**not met**") if judged else "not judged on this card"
        rows.append((target.what, target.wanted, short(value) + target.unit, verdict))
    return rows
