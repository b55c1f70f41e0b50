"""Did this run make its model better? The before and after evaluations of a run folder, compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathgrpo.evaluation.compare import Comparison, compare, verdict_line
from mathgrpo.evaluation.evaluation_files import evaluation_names, read_evaluation
from mathgrpo.evaluation.gain import GainParts, gain_parts
from mathgrpo.evaluation.records import Evaluation, Metric
from mathgrpo.files import to_json, write_atomically

SUBJECTS = {"heldout": "held-out accuracy", "templates": "held-out-template accuracy"}
"""Problem set -> what its verdict line begins with."""

SUFFIXES = {"heldout": "", "templates": "-templates"}
"""Problem set -> what its evaluations' names end with."""


@dataclass(frozen=True, slots=True)
class SetVerdict:
    """The verdict on one problem set under one metric."""

    problem_set: str
    comparison: Comparison
    parts: GainParts

    @property
    def line(self) -> str:
        """The verdict in one line."""
        subject = SUBJECTS[self.problem_set]
        return verdict_line(self.comparison, subject if self.comparison.metric == "greedy" else f"sampled {subject}")

    def as_dict(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return {"line": self.line, "comparison": self.comparison.as_dict(), "gain_parts": self.parts.as_dict()}


def set_verdict(problem_set: str, before: Evaluation, after: Evaluation, metric: Metric = "greedy") -> SetVerdict:
    """Return the verdict on a problem set: paired comparison and parts of the gain.

    Raises: UserError if the two evaluations are not on the same problems.
    """
    return SetVerdict(problem_set, compare(before, after, metric=metric), gain_parts(before, after, metric=metric))


def write_verdict(run_folder: Path) -> dict[str, SetVerdict]:
    """Return the greedy verdict of each problem set evaluated before and after, and write verdict.json with them.

    verdict.json maps "heldout" and "templates" to {line, comparison, gain_parts}, and "heldout/sampled",
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
        if before and after:
            verdicts[problem_set] = set_verdict(problem_set, before, after)
            if all(record.samples for record in (*before.records, *after.records)):
                verdicts[f"{problem_set}/sampled"] = set_verdict(problem_set, before, after, "sampled")
    return verdicts
