"""docs/performance.md and benchmarks/results/ show what the results files hold, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page import END, PAGE, RESULTS, with_summary
from benchmarks.results import read_results
from benchmarks.table import markdown

ROOT = Path(__file__).parents[2]
RUNS = sorted(path.stem for path in (ROOT / RESULTS).glob("*.json") if path.stem not in ("accuracy", "serving"))


def test_the_pages_numbers_are_those_of_the_last_run() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert with_summary(text, read_results(ROOT / RESULTS / "bench.json")) == text, "run: python -m benchmarks.page"


@pytest.mark.parametrize("name", RUNS)
def test_a_table_is_that_of_its_file(name: str) -> None:
    path = ROOT / RESULTS / f"{name}.json"
    assert path.with_suffix(".md").read_text(encoding="utf-8") == markdown(read_results(path))


def test_a_page_without_marks_is_refused() -> None:
    results = read_results(ROOT / RESULTS / "bench.json")
    with pytest.raises(ValueError, match="end of results"):
        with_summary(f"# Performance\n{END}", results)
