"""The grading benchmark on a few pairs: what it counts, and that the project's own pairs are well formed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.grading import PAIRS, main, read_pairs, same_last_number
from benchmarks.grading_page import GradingResults, Pair, figures

ROWS = [
    {"answer": "1,260", "gold": "1260", "want": "correct"},
    {"answer": "1261", "gold": "1260", "want": "wrong"},
    {"answer": "1260", "gold": "1260", "want": "wrong", "kind": "to be counted as a false positive"},
    {"answer": "\\sqrt{8}", "gold": "2\\sqrt{2}", "want": "correct", "family": "roots"},
    {"answer": "2.82842712", "gold": "2\\sqrt{2}", "want": "wrong", "family": "roots"},
    {"answer": "3\\sqrt{2}", "gold": "2\\sqrt{2}", "want": "correct", "family": "roots", "kind": "a false negative"},
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_a_run_counts_and_names_what_is_not_as_wanted(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golds = tmp_path / "golds.jsonl"
    rows = [{"solution": "so \\boxed{1} and \\boxed{\\frac{1}{2}}"}, {"answer": "7"}, {"answer": "17 18"}]
    golds.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out" / "grading.json"
    main(["--pairs", str(pairs), "--golds", str(golds), "--out", str(out)])
    results = GradingResults.model_validate_json(out.read_text(encoding="utf-8"))
    counted = {(s.family, s.grader): (s.right, s.wrong, s.right_unpaid, s.wrong_paid) for s in results.scores}
    assert counted["few", "mathgrpo"] == (1, 2, 0, 1) and counted["roots", "mathgrpo"] == (2, 1, 1, 0)
    assert counted["few", "math-verify"] == (1, 2, 0, 1) and counted["few", "equal text"] == (1, 2, 1, 1)
    assert len(results.misses) == 2 and "to be counted" in results.misses[0]
    (checked,) = results.golds
    assert (checked.golds, checked.mutants_paid, len(checked.refused)) == (3, (), 1) and checked.mutants > 5
    assert "| few, 3 | mathgrpo | 66.7 (20.8–93.9) | 0 of 1: 0.0" in figures(results)
    assert "Not as wanted" in capsys.readouterr().out


def test_a_line_that_is_no_pair_is_named(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"answer": "1", "gold": "1", "want": "maybe"}\n', encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["--pairs", str(bad)])
    assert ended.value.code == 2 and "bad.jsonl:1: must have" in capsys.readouterr().err


def test_the_projects_pairs_are_many_and_each_is_there_once() -> None:
    found = [pair for path in sorted(PAIRS.glob("*.jsonl")) for pair in read_pairs(path)]
    assert len({(p.answer, p.gold, p.question) for p in found}) > 0.98 * len(found) > 900
    families = {family: {p.want for p in found if p.family == family} for family in {p.family for p in found}}
    assert families["numbers"] == families["MATH-style"] == {"correct", "wrong"} and families["hostile"] == {"wrong"}


def test_the_last_number_is_what_scripts_take() -> None:
    assert same_last_number(Pair(answer="2 of 1,260.0", gold="1260", want="correct"))
    assert not same_last_number(Pair(answer="none", gold="1260", want="wrong"))
