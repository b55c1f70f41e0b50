"""Every kind of source gives the same problems, and every kind of bad source one clear line."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mathgrpo.config import load_recipe
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.errors import UserError
from mathgrpo.problems import load_heldout, load_problem_sets
from mathgrpo.problems.origin import all_rows
from mathgrpo.problems.table_rows import shown

ROWS = [{"question": f"What is {n} + 1, she asked?", "answer": str(n + 1), "level": n % 3} for n in range(12)]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def section(source: Path | str, **fields: Any) -> ProblemsSection:
    return ProblemsSection(**({"source": str(source), "heldout_size": 4} | fields))


def error_of(problems: ProblemsSection) -> str:
    with pytest.raises(UserError) as caught:
        load_problem_sets(problems)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet, "json": write_json}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_file_kind_gives_the_same_problems(tmp_path: Path, suffix: str) -> None:
    sets = load_problem_sets(section(WRITERS[suffix](tmp_path / f"sums.{suffix}", ROWS)))
    assert (len(sets.train), len(sets.heldout)) == (8, 4)
    answers = {problem.question: problem.answer for problem in (*sets.train, *sets.heldout)}
    assert answers == {row["question"]: row["answer"] for row in ROWS}
    assert {str(problem.columns["level"]) for problem in sets.train} <= {"0", "1", "2"}
    assert "held out by question hash" in sets.notes[0]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_folder_is_read_by_split_name(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](tmp_path / f"train.{suffix}", ROWS[:8])
    WRITERS[suffix](tmp_path / f"validation.{suffix}", ROWS[7:])
    sets = load_problem_sets(section(tmp_path, splits=("train", "validation"), heldout_size=9))
    assert (len(sets.train), len(sets.heldout)) == (7, 5)
    assert sets.notes == ("train: 1 of 8 problems dropped, they are in the held-out split",)


def test_columns_go_where_the_recipe_says(tmp_path: Path) -> None:
    work = "{0} = <<{0}={0}>>{0}"
    rows = [{"Problem": f" {n}? ", "Gold": n, "Work": work.format(n), "answer": "hidden", "tag": "t"} for n in range(4)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    names = {"columns": {"question": "Problem", "answer": "Gold", "solution": "Work"}}
    problem = load_heldout(section(path, **names)).heldout[2]
    assert (problem.question, problem.answer, problem.solution, problem.columns) == ("2?", "2", "2 = 2", {"tag": "t"})


def test_a_gsm8k_shaped_answer_is_recognised_in_any_file(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"Twice {n} = <<2*{n}={2 * n}>>{2 * n}\n#### {2 * n}"} for n in range(4)]
    problem = load_heldout(section(write_csv(tmp_path / "x.csv", rows))).heldout[1]
    assert (problem.answer, problem.solution) == ("2", "Twice 1 = 2")


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder laid out as a hub dataset with two subsets; the library's cache is kept in tmp_path."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    for subset, rows in {"main": ROWS, "other": ROWS[:6]}.items():
        write_parquet(folder / subset / "train-00000-of-00001.parquet", rows[:5])
        write_parquet(folder / subset / "test-00000-of-00001.parquet", rows[5:])
    configs = "".join(
        f"- config_name: {subset}\n  data_files:\n"
        f"  - split: train\n    path: {subset}/train-*\n  - split: test\n    path: {subset}/test-*\n"
        for subset in ("main", "other")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder


def test_a_dataset_in_hub_layout(hub_folder: Path) -> None:
    sets = load_problem_sets(section(f"{hub_folder}:main", heldout_size=100))
    assert (len(sets.train), len(sets.heldout)) == (5, 7)
    assert {p.question for p in sets.train} == {row["question"] for row in ROWS[:5]}
    assert len(load_problem_sets(section(f"{hub_folder}:other")).heldout) == 1
    one_split = load_problem_sets(section(f"{hub_folder}:main", splits=("train",), heldout_size=2))
    assert (len(one_split.train), len(one_split.heldout)) == (3, 2)


def test_hub_subset_and_split_are_named_when_wrong(hub_folder: Path) -> None:
    message = error_of(section(hub_folder))
    assert "has several configurations: main, other; name one behind a colon, as in " in message
    named = message.rpartition("as in ")[2]
    message = error_of(section(named, splits=("train", "dev")))
    assert 'no split "dev"; splits there: ' in message
    override = shlex.split(message.rpartition("write --set ")[2])[0]
    chosen = load_recipe("demo", [f"problems.source={named}", override, "problems.heldout_size=4"]).problems
    assert len(load_problem_sets(chosen).train) >= 5
    assert {name: len(rows) for name, rows in all_rows(section(named)).items()} == {"train": 5, "test": 7}
    assert "no configuration" in error_of(section(f"{hub_folder}:nope"))


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the hub libraries at a closed local port and an empty cache."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("no_network")
def test_a_hub_id_without_network_is_one_line_at_once() -> None:
    from huggingface_hub import constants

    started = time.perf_counter()
    message = error_of(section("openai/gsm8k"))
    assert time.perf_counter() - started < 5.0
    assert message.startswith('problems.source="openai/gsm8k": cannot be loaded')
    assert '"generated"' in message and "local copy" in message and not constants.HF_HUB_OFFLINE


def test_problems_do_not_import_heavy_libraries() -> None:
    heavy = {"torch", "transformers", "datasets", "pandas", "pyarrow", "jinja2", "reasoning_gym"}
    code = f"import sys, mathgrpo.problems, mathgrpo.formats.chat; print({heavy} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True, timeout=60) == "set()\n"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ("no rows",)),
        (b"\n \n", ("no rows",)),
        (b'{"question": "a?", "answer": "1"}\n\n{"question": broken\n', ("line 3 is not JSON", "column 14")),
        (b'{"question": "a?", "answer": "1"}\n[1]\n', ("line 2 is a list, not an object",)),
        (b"[" * 100_000, ("line 1 is not JSON (nested too deep)",)),
        (b'{"question": "a?", "answer": ' + b"1" * 5000 + b"}", ("line 1 is not JSON",)),
        (b'{"question": "a?", "answer": "1"}\n{"question": "a?", "answer": "\xff"}', ("line 2 is not UTF-8",)),
        (b'{"question": "\\ud83d?", "answer": "1"}', ("line 1 has a broken Unicode character", '"question"')),
        (b'{"question": "a?", "answer": "1"}\n{"question": " ", "answer": "1"}', ('line 2 has an empty "question"',)),
        (b'{"question": "a?", "answer": null}', ('line 1 has an empty "answer"', "problems.columns.answer")),
        (b'{"question": "a?", "answer": NaN}', ('line 1 has an empty "answer"',)),
        (b'{"question": ["a?", "b?"], "answer": "1"}', ('line 1 has a list in "question"',)),
        (b'{"question": true, "answer": true}', ('line 1 has a bool in "question"',)),
        (b'{"question": "a?", "answer": {"value": "1"}}', ('line 1 has a table of value in "answer"',)),
        (b'{"question": "a?", "answer": Infinity}', ('line 1 has an infinite number in "answer"',)),
        (b'{"question": "a?", "answer": "proof"}', ('line 1 has no answer ("proof") in "answer"', "--passing")),
        (
            b'{"question": "a?", "answer": "so \\\\boxed{5}\\n#### 6"}',
            ('line 1 has two results that differ, #### 6 and \\boxed{5}, in "answer"', "keep the right one"),
        ),
        (
            b'{"question": "a?", "answer": "1"}\n{"Question": "a?", "answer": "1", "x": 2}',
            ('problems.columns.question="question": line 2', "there: Question, answer, x", 'did you mean "Question"?'),
        ),
        (b"{}", ("columns there: none",)),
    ],
)
def test_bad_jsonl(tmp_path: Path, content: bytes, parts: tuple[str, ...]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    message = error_of(section(path))
    assert all(part in message for part in parts), message
    assert shown(path) in message or "\u2026" in message


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("x.csv", b"", "no rows"),
        ("x.csv", b"question,answer\n", "no rows"),
        ("x.csv", b"question,answer\na?,1\nb, c?,2\n", "row 2 has more cells than the header"),
        ("x.csv", b"question,answer\na?,1\nb?\n", 'row 2 has an empty "answer"'),
        ("x.csv", b"question:answer\na?:1\n", "columns there: question:answer"),
        ("x.csv", b'question,answer\n"' + b"a" * 200_000 + b'",1\n', "not readable as CSV"),
        ("x.json", b'"a?"', "a JSON str, not a list of objects"),
        ("x.json", b'{"question": "a?", "answer": "1"}\n{"question" 1}', "line 2 is not JSON"),
        ("x.jsonl.gz", b"no gzip", "not readable as .gz"),
        ("x.arrow", b"no arrow", "not readable as Arrow"),
        ("x.json", b'[\n{"question" 1}]', "the file is not JSON (Expecting ':' delimiter at line 2)"),
        ("x.parquet", b"no parquet", "not readable as Parquet"),
        ("x.txt", b"a?", "not a .jsonl, .json, .csv, .tsv, .parquet, .arrow file"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert part in error_of(section(tmp_path / name))


def test_missing_sources_say_what_is_allowed(tmp_path: Path) -> None:
    assert "no such file" in error_of(section(tmp_path / "gone.jsonl"))
    assert "no such file" in error_of(section("data/gone.csv"))
    assert 'did you mean "generated"?' in error_of(section("generate"))
    assert 'did you mean "openai/gsm8k"?' in error_of(section("gsm8k"))
    assert "allowed:" in error_of(section("two\nlines"))


def test_folders_without_the_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "tests.jsonl", ROWS)
    message = error_of(section(tmp_path))
    assert 'problems.splits=["train", "test"]: no such file as "test"' in message and 'did you mean "tests"?' in message
    write_csv(tmp_path / "train.csv", ROWS)
    assert "has train.csv, train.jsonl; keep one of them" in error_of(section(tmp_path))


def test_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in error_of(section(tmp_path / "empty"))


def test_all_rows_are_every_split(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ROWS[:8])
    write_jsonl(tmp_path / "test.jsonl", ROWS[8:])
    both = all_rows(section(tmp_path))
    assert [(name, len(rows)) for name, rows in both.items()] == [("test.jsonl", 4), ("train.jsonl", 8)]
    assert all_rows(section(train)) == {"train.jsonl": both["train.jsonl"]}


def test_evaluation_alone_needs_no_training_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", ROWS)
    assert len(load_heldout(section(tmp_path, heldout_size=99)).heldout) == 12
