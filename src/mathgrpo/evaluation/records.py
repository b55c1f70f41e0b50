"""What an evaluation keeps: every graded completion of every problem, and how the completions were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Metric = Literal["greedy", "sampled"]


@dataclass(frozen=True, slots=True)
class GradedCompletion:
    """One completion and what the grader says about it.

    Attributes:
        text: the decoded completion, end tokens removed.
        answer: the answer found in the format, or None.
        verdict: the strict verdict, on the answer in the format.
        flexible_verdict: the verdict on an answer found anywhere in the text.
        format_strict, format_soft: the format's two checks.
        worked: the reasoning holds at least one arithmetic step.
        tokens: sampled tokens, the end token included.
        finish_reason: "eos" or "length".
    """

    text: str
    answer: str | None
    verdict: str
    flexible_verdict: str
    format_strict: bool
    format_soft: bool
    worked: bool
    tokens: int
    finish_reason: str

    @property
    def correct(self) -> bool:
        """True if the answer in the format is right."""
        return self.verdict == "correct"

    @property
    def readable(self) -> bool:
        """True if an answer in the format could be read, right or wrong."""
        return self.verdict in ("correct", "wrong")


@dataclass(frozen=True, slots=True)
class ProblemRecord:
    """One problem with its greedy completion and its sampled ones (none when only greedy was asked for)."""

    id: str
    question: str
    gold: str
    template: str
    greedy: GradedCompletion
    samples: tuple[GradedCompletion, ...] = ()

    def completions(self, metric: Metric) -> tuple[GradedCompletion, ...]:
        """The completions a metric looks at: the greedy one alone, or all samples."""
        return (self.greedy,) if metric == "greedy" else self.samples

    def accuracy(self, metric: Metric) -> float:
        """Share of those completions that are correct; 0 when there are none."""
        completions = self.completions(metric)
        return sum(c.correct for c in completions) / max(len(completions), 1)


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How the completions of an evaluation were drawn; `samples` 0 means greedy only."""

    max_new_tokens: int
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    format: str = ""
    model: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All records of one model on one problem set, in the order of the problems."""

    records: tuple[ProblemRecord, ...]
    settings: EvaluationSettings

    def summary(self) -> dict[str, Any]:
        """Every number of the evaluation under a flat name, ready for JSON; see `metrics.summarise`."""
        from mathgrpo.evaluation.accuracy import summarise

        return summarise(self.records)


def all_completions(records: Sequence[ProblemRecord], metric: Metric) -> list[GradedCompletion]:
    """The completions a metric looks at over all problems, in order."""
    return [completion for record in records for completion in record.completions(metric)]
