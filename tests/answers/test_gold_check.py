"""Golds are checked against the grader and the format that will grade completions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mathgrpo.answers.gold_check import check_golds, check_rows, require_golds
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.errors import UserError
from mathgrpo.formats import FORMATS, get_format
from mathgrpo.problems import load_problem_sets
from mathgrpo.problems.table_rows import Row
from mathgrpo.types import Problem

EVERY = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)


@EVERY
def test_plain_golds_pass_in_every_format(fmt: object) -> None:
    golds = ["18", "1,200", "-5", "0.5", "$18", "50%"]
    assert check_golds([Problem(f"Question {i}?", gold) for i, gold in enumerate(golds)], fmt) == []  # type: ignore[arg-type]


def test_bad_golds_are_named_by_row_question_and_reason() -> None:
    problems = [Problem("a?", "18"), Problem("b?", "17 18"), Problem("c?", "18"), Problem("d?", "a dozen")]
    failures = check_golds(problems, get_format("xml"))
    assert [(f.row, f.question) for f in failures] == [(2, "b?"), (4, "d?")]
    assert failures[0].reason.startswith('gold "17 18" cannot be graded: ') and len(failures[0].reason) > 40
    assert str(failures[0]).startswith("row 2: gold") and str(failures[0]).endswith('(question "b?")')


def test_a_gold_that_breaks_the_format_fails() -> None:
    (failure,) = check_golds([Problem("a?", "</answer>")], get_format("xml"))
    assert failure.row == 1
    (failure,) = check_golds([Problem("a?", "")], get_format("boxed"))
    assert failure.row == 1


def test_bad_rows_count_beside_bad_golds() -> None:
    rows = [
        Row("line 1", {"question": "a?", "answer": "18"}),
        Row("line 3", {"question": "a?", "gold": "18"}),
        Row("line 4", {"question": "a?", "answer": "17 18"}),
        Row("line 5", {"question": "", "answer": "1"}),
    ]
    failures = check_rows(rows, ProblemsSection(source="x.jsonl"), get_format("xml"))
    assert [failure.row for failure in failures] == [2, 3, 4]
    assert "line 3" in failures[0].reason and "gold" in failures[0].reason and "line 5" in failures[2].reason


def test_a_run_does_not_start_on_a_bad_gold() -> None:
    problems = [Problem("a?", "18"), Problem("b?\nsecond line", "17 18")]
    require_golds(problems[:1], get_format("xml"), "x.jsonl")
    with pytest.raises(
        UserError, match=r'problems\.source="x.jsonl": 1 of 2 golds fail.*"17 18".*check-data'
    ) as caught:
        require_golds(problems, get_format("xml"), "x.jsonl")
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_every_official_gold_passes(gsm8k_folder: Path) -> None:
    sets = load_problem_sets(ProblemsSection(source=str(gsm8k_folder), train_size=10_000, heldout_size=10_000))
    assert check_golds(sets.heldout, get_format("boxed")) == []
    assert check_golds(sets.train, get_format("xml")) == []
