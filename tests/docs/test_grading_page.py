"""docs/grading.md shows what the last run of the grading benchmark measured, and the limits that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.grading_page import PAGE, RESULTS, GradingResults, with_figures
from mathgrpo.answers import latex, latex_size, latex_walk, latex_worker

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")


def test_the_pages_figures_are_those_of_the_last_run() -> None:
    results = GradingResults.model_validate_json((ROOT / RESULTS).read_text(encoding="utf-8"))
    assert with_figures(TEXT, results) == TEXT, "run: make bench-grading"


def test_the_pages_limits_are_the_codes() -> None:
    limits = latex_worker.Limits()
    stated = " ".join(TEXT.partition("## What an answer may cost")[2].partition("## ")[0].split())
    seconds = f"has {limits.first_s:g} s, then {limits.second_s:g} s"
    for said in (
        f"Over {latex_size.MAX_DIGITS:,} digits", f"{latex_size.MAX_TERMS} terms",
        f"{latex.MAX_LATEX_CHARS} characters",
        f"degree of {latex_size.MAX_DEGREE:,}", f"factorials over {latex_size.MAX_FACTORIAL:,}", seconds,
        f"an order over {latex_size.MAX_ROOT},", f"brackets {latex_walk.MAX_DEPTH} deep",
        f"{limits.memory_mib} MiB of address", f"holds {limits.grown_mib} MiB", f"share {limits.slow_s:g} s",
        f"has {limits.hurried_s:g} s until",
    ):  # fmt: skip
        assert said in stated, said


def test_the_outcomes_are_the_codes() -> None:
    from typing import get_args

    from mathgrpo.types import Outcome

    table = TEXT.partition("| outcome |")[2].partition("##")[0]
    first_cells = "".join(re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE))
    assert set(get_args(Outcome)) == set(re.findall(r"`([a-z_]+)`", first_cells))
