"""The summary of the last runs that docs/performance.md shows (`python -m benchmarks.page`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.repeats import spread
from benchmarks.results import Experiment, Results, read_results
from benchmarks.table import nearest_trl, origin, ratio, row_of
from mathgrpo.text import with_inside

PAGE = Path("docs/performance.md")
RESULTS = Path("benchmarks/results")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
HEAD = (
    "| | mathgrpo, s a step | the nearest TRL that took part | s a step | step × | rollout × | update × | peak, MB |\n"
    "|---|---|---|---|---|---|---|---|"
)


def summary(results: Results) -> str:
    """Return one line an experiment: this project beside the nearest TRL row of the same run."""
    lines = [line for line in map(_line, results.experiments) if line]
    return "\n".join([origin(results), "", HEAD, *lines])


def with_summary(page: str, results: Results) -> str:
    """Return the page with what stands between its marks replaced.

    Raises: ValueError when the page has not exactly one pair of marks.
    """
    return with_inside(page, BEGIN, END, summary(results))


def _line(experiment: Experiment) -> str:
    ours, nearest = row_of(experiment, "ours"), nearest_trl(experiment)
    if ours is None or nearest is None or not ours.samples:
        return ""
    ratios = [
        ratio(nearest, ours, lambda s: s.seconds), ratio(nearest, ours, lambda s: s.rollout_s),
        ratio(nearest, ours, lambda s: s.update_s),
    ]  # fmt: skip
    peaks = f"{ours.samples[-1].peak_bytes / 1e6:,.0f} against {nearest.samples[-1].peak_bytes / 1e6:,.0f}"
    cells = [
        experiment.title, _median([s.seconds for s in ours.samples]), nearest.contestant.label,
        _median([s.seconds for s in nearest.samples]), *(f"{r.median:.2f}" if r else "" for r in ratios), peaks,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _median(values: Sequence[float]) -> str:
    return f"{spread(values).median:.3g}"


if __name__ == "__main__":
    found = read_results(RESULTS / "bench.json")
    PAGE.write_text(with_summary(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
