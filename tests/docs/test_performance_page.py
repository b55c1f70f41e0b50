"""docs/performance.md and benchmarks/results/ show what the results files hold, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page import END, PAGE, RESULTS, summary, with_summary
from benchmarks.results import read_results
from benchmarks.table import markdown

ROOT = Path(__file__).parents[2]
OF_OTHER_PAGES = ("accuracy", "serving", "grading")
RUNS = sorted(path.stem for path in (ROOT / RESULTS).glob("*.json") if path.stem not in OF_OTHER_PAGES)


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


def test_the_readme_s_table_is_that_of_the_last_run() -> None:
    """Each line: the nearest TRL row's label, then ratios and seconds in two or three digits."""
    table = [line for line in summary(read_results(ROOT / RESULTS / "bench.json")).splitlines() if "whole step" in line]
    told = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "256 tokens," in line]
    assert len(table) == len(told) == 4
    for measured, line in zip(table, told, strict=True):
        _, title, ours, label, theirs, *ratios, _, _ = (cell.strip() for cell in measured.split("|"))
        _, what, nearest, *shown, _ = (cell.strip(" *") for cell in line.split("|"))
        assert label == f"TRL, {nearest}" and title.endswith(what.rsplit(" ", 1)[1])
        for number, words in zip((*ratios, ours, theirs), shown, strict=True):
            words = words.rstrip("× s*")
            assert abs(float(words) - float(number)) <= 0.5 * 10 ** -len(words.partition(".")[2]) + 1e-9, line
