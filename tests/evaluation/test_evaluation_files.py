from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.graded import evaluation, graded, record
from mathgrpo.errors import UserError
from mathgrpo.evaluation import (
    Evaluation,
    EvaluationSettings,
    evaluation_names,
    read_evaluation,
    write_evaluation,
    write_verdict,
)
from mathgrpo.evaluation.evaluate import read_json_lines, write_atomically

SETTINGS = EvaluationSettings(64, 2, 0.7, 0.9, 3, "xml", "starter", "native")
WHOLE = Evaluation(
    (record(0, "correct", ["wrong", "correct"]), record(1, "no_answer", ["timeout", "correct"])), SETTINGS
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_evaluation(WHOLE, tmp_path, "before")
    assert path == tmp_path / "eval" / "before.json"
    assert read_evaluation(tmp_path, "before") == WHOLE
    assert evaluation_names(tmp_path) == ["before"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["before.json", "before.jsonl"]


def test_files_follow_the_contract(tmp_path: Path) -> None:
    write_evaluation(WHOLE, tmp_path, "after")
    first = json.loads((tmp_path / "eval" / "after.jsonl").read_text().splitlines()[0])
    assert set(first) == {"id", "question", "gold", "template", "greedy", "samples"}
    assert set(first["greedy"]) == {
        "text",
        "answer",
        "verdict",
        "flexible_verdict",
        "format_strict",
        "format_soft",
        "worked",
        "tokens",
        "finish_reason",
        "rule",
        "why",
        "rewards",
    }
    summary = json.loads((tmp_path / "eval" / "after.json").read_text())
    assert summary["accuracy"] == 0.5 and summary["sampled/accuracy"] == 0.5 and summary["settings"]["top_p"] == 0.9


def test_a_file_of_before_reads_in_todays_words(tmp_path: Path) -> None:
    write_evaluation(evaluation(["refused"]), tmp_path, "before")
    path = tmp_path / "eval" / "before.jsonl"
    row = json.loads(path.read_text())
    row["greedy"] = {k: v for k, v in row["greedy"].items() if k not in ("rule", "why")} | {"verdict": "unreadable"}
    path.write_text(json.dumps(row) + "\n")
    assert read_evaluation(tmp_path, "before") == evaluation(["refused"])


def test_awkward_text_survives(tmp_path: Path) -> None:
    text = "\ud800 é \x1b[31m \x00 </script> \u2028 → 7"
    whole = evaluation([graded(text=text)])
    write_evaluation(whole, tmp_path, "before")
    assert read_evaluation(tmp_path, "before") == whole
    (tmp_path / "eval" / "before.jsonl").read_text(encoding="utf-8")


def test_rewriting_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_evaluation(WHOLE, tmp_path, "before")
    write_evaluation(evaluation(["wrong"]), tmp_path, "before")
    assert len(read_evaluation(tmp_path, "before").records) == 1


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "eval").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot be written") as caught:
        write_evaluation(WHOLE, tmp_path, "before")
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_atomically(target, "text")  # a folder is in the way of the rename
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def spoil(tmp_path: Path, name: str, old: str, new: str) -> None:
    path = tmp_path / "eval" / name
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("before.jsonl", '"gold"', '"g"', r"before.jsonl:1: not a problem record \(gold"),
        ("before.jsonl", '"tokens": 10', '"tokens": "many"', r"before.jsonl:1: not a problem record \(greedy.tokens"),
        ("before.jsonl", "}\n", "\n", r"before.jsonl:1: not a JSON object"),
        ("before.json", "{", "", r"before.json: not a JSON object"),
        ("before.json", '"problems": 2', '"problems": 3', "2 problems where before.json counts 3"),
        ("before.json", '"max_new_tokens"', '"max"', "settings unreadable"),
    ],
)
def test_a_corrupt_file_is_named_in_one_line(tmp_path: Path, name: str, old: str, new: str, says: str) -> None:
    write_evaluation(WHOLE, tmp_path, "before")
    spoil(tmp_path, name, old, new)
    with pytest.raises(UserError, match=says) as caught:
        read_evaluation(tmp_path, "before")
    assert "\n" not in str(caught.value)


def test_a_missing_evaluation_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"before\.json: cannot be read \(No such file or directory\)"):
        read_evaluation(tmp_path, "before")


def test_only_a_cut_last_line_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n\n{"step": 2}\n{"ste')
    assert [row for _, row in read_json_lines(path, forgive_cut_end=True)] == [{"step": 1}, {"step": 2}]
    with pytest.raises(UserError, match=r"rows\.jsonl:4"):
        list(read_json_lines(path))
    path.write_text('{"ste\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:1"):
        list(read_json_lines(path, forgive_cut_end=True))
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="it is a list"):
        list(read_json_lines(path))


def test_verdict_json_of_both_sets(tmp_path: Path) -> None:
    write_evaluation(evaluation(["wrong"] * 12), tmp_path, "before")
    assert write_verdict(tmp_path) == {} and not (tmp_path / "verdict.json").exists()
    write_evaluation(evaluation(["correct"] * 12), tmp_path, "after")
    write_evaluation(evaluation(["wrong"] * 4), tmp_path, "before-templates")
    write_evaluation(evaluation(["wrong"] * 4), tmp_path, "after-templates")
    verdicts = write_verdict(tmp_path)
    assert set(verdicts) == {"heldout", "templates"}
    content = json.loads((tmp_path / "verdict.json").read_text())
    assert content["heldout"]["comparison"]["difference"] == 1.0
    assert content["heldout"]["gain_parts"]["arithmetic"] == pytest.approx(100.0)
    assert content["templates"]["line"].startswith("held-out-template accuracy 0.0 % → 0.0 %, 0.0 points")
    assert content["templates"]["line"].endswith("no significant change")
