"""Results files of the grading benchmark, and what docs/grading.md shows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from benchmarks.settings import Record
from mathgrpo.evaluation.records import wilson_interval
from mathgrpo.text import with_inside

RESULTS, PAGE = Path("benchmarks/results/grading.json"), Path("docs/grading.md")
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
GROUP = 16
"""Hostile answers of one group."""
MAX_SHOWN = 40


class Pair(Record):
    """An answer and a gold. want: what a mathematician would say; family: by default the name of the file."""

    answer: str
    gold: str
    want: Literal["correct", "wrong"]
    kind: str = ""
    question: str = ""
    family: str = ""


class Score(Record):
    """What one grader made of one family. right_unpaid and wrong_paid: of the pairs to be paid and not to be."""

    family: str
    grader: str
    right: int
    wrong: int
    right_unpaid: int
    wrong_paid: int
    seconds: float

    @property
    def agreement(self) -> float:
        """The share of pairs on which it says what a mathematician would."""
        return 1 - (self.right_unpaid + self.wrong_paid) / (self.right + self.wrong)


class Speed(Record):
    """Seconds of one grader for one kind of work. done: items; killed: of them those that no time limit ended."""

    work: str
    grader: str
    done: int
    seconds: float
    killed: int = 0


class Golds(Record):
    """A data set's golds. mutants: answers near them that are not them; the lists name examples."""

    file: str
    golds: int
    seconds: float
    refused: tuple[str, ...]
    not_equal_to_itself: tuple[str, ...]
    mutants: int
    mutants_paid: tuple[str, ...]


class GradingResults(Record):
    """The results file of this benchmark. misses: where this project says otherwise than a mathematician."""

    schema_version: int = 1
    date: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    scores: tuple[Score, ...]
    speeds: tuple[Speed, ...] = ()
    golds: tuple[Golds, ...] = ()
    misses: tuple[str, ...] = ()


def figures(results: GradingResults) -> str:
    """Return the results as Markdown."""
    machine, names = results.machine, ", ".join(f"{k} {v}" for k, v in results.versions.items())
    lines = [
        f"Measured on {results.date} by `{results.command}` on {machine.get('cpu')}, {machine.get('cores')} cores. "
        f"Versions: {names}.", "",
        "| pairs | grader | agreement, % | right and unpaid | wrong and paid |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for score in results.scores:
        total, missed = score.right + score.wrong, score.right_unpaid + score.wrong_paid
        cells = [f"{score.family}, {total:,}", score.grader, _share(total - missed, total),
                 _of(score.right_unpaid, score.right), _of(score.wrong_paid, score.wrong)]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    if results.speeds:
        lines += ["", "| work | grader | seconds | a second | killed |", "|---|---|---|---|---|"]
    for speed in results.speeds:
        rate = f"{speed.done / speed.seconds:,.0f}" if speed.done > GROUP else ""
        lines.append(
            f"| {speed.work} | {speed.grader} | {speed.seconds:.3g} for {speed.done:,} | {rate} | {speed.killed} |"
        )
    for golds in results.golds:
        bad = (*golds.refused, *golds.not_equal_to_itself, *golds.mutants_paid)
        lines += [
            "",
            f"{golds.file}: {golds.golds:,} different golds in {golds.seconds:.1f} s, {len(golds.refused)} refused, "
            f"{len(golds.not_equal_to_itself)} not equal to themselves; of {golds.mutants:,} near misses "
            f"{len(golds.mutants_paid)} paid.",
            *(f"- {what}" for what in bad[:MAX_SHOWN]),
        ]
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    low, high = wilson_interval(part, whole)
    return f"{100 * part / whole:.1f} ({100 * low:.1f}–{100 * high:.1f})" if whole else ""


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}: {_share(part, whole)}" if whole else "none"


def with_figures(page: str, results: GradingResults) -> str:
    """Return the page with the results between its marks."""
    return with_inside(page, BEGIN, END, figures(results))
