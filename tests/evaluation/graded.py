"""Graded completions, problems and evaluations in a few words, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mathgrpo.evaluation import Evaluation, EvaluationSettings, GradedCompletion, ProblemRecord


def graded(
    verdict: str = "correct", *, worked: bool = True, answer: str | None = "7", **fields: Any
) -> GradedCompletion:
    """Return a completion with this verdict; one without a readable answer has no answer and no format."""
    readable = verdict in ("correct", "wrong")
    values: dict[str, Any] = dict(  # noqa: C408  reads as the call it feeds
        text=f"<answer>{answer}</answer>",
        answer=answer if readable else None,
        verdict=verdict,
        flexible_verdict=verdict,
        format_strict=readable,
        format_soft=readable,
        worked=worked,
        tokens=10,
        finish_reason="eos",
    )
    return GradedCompletion(**(values | fields))


def record(
    number: int, greedy: GradedCompletion | str, samples: Sequence[GradedCompletion | str] = ()
) -> ProblemRecord:
    """Return problem `number` with its completions, given whole or as a verdict."""

    def whole(one: GradedCompletion | str) -> GradedCompletion:
        return graded(one) if isinstance(one, str) else one

    return ProblemRecord(f"{number:016x}", f"Question {number}?", "7", "", whole(greedy), tuple(map(whole, samples)))


def evaluation(completions: Sequence[GradedCompletion | str]) -> Evaluation:
    """Return a greedy evaluation of problems 0, 1, 2, ... with these completions."""
    return Evaluation(tuple(record(i, c) for i, c in enumerate(completions)), EvaluationSettings(64))


def outcomes(both: int, broken: int, fixed: int, neither: int) -> tuple[Evaluation, Evaluation]:
    """Return evaluations before and after with so many problems of each outcome."""
    before = ["correct"] * both + ["correct"] * broken + ["wrong"] * fixed + ["wrong"] * neither
    after = ["correct"] * both + ["wrong"] * broken + ["correct"] * fixed + ["wrong"] * neither
    return evaluation(before), evaluation(after)
