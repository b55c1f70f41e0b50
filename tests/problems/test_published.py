"""Data as people publish it: each schema and shape is read right, or told in one line whose remedy works."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mathgrpo.cli.app import app
from mathgrpo.config import load_recipe
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.errors import UserError
from mathgrpo.formats import get_format
from mathgrpo.problems import load_heldout, load_problem_sets
from mathgrpo.problems.origin import all_rows
from mathgrpo.rewards.make_suite import build_suite
from mathgrpo.rewards.pre_run_check import require_applicable
from mathgrpo.types import Problem
from problems.published_schemas import BOX, READ, TOLD


def write(folder: Path, row: Any, count: int = 1) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(count)), encoding="utf-8")
    return path


def read(section: ProblemsSection) -> Problem:
    (problem,) = load_heldout(section).heldout
    return problem


@pytest.mark.parametrize("name", READ)
def test_a_public_schema_is_read(name: str, tmp_path: Path) -> None:
    row, question, gold = READ[name]
    problem = read(ProblemsSection(source=str(write(tmp_path, row))))
    assert (problem.question, problem.answer) == (question, gold)


@pytest.mark.parametrize("name", READ)
def test_it_is_read_the_same_from_parquet(name: str, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    row, question, gold = READ[name]
    values = {str(i): turn for i, turn in enumerate(row)} if isinstance(row, list) else row
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([values]), tmp_path / "rows.parquet")
    problem = read(ProblemsSection(source=str(tmp_path / "rows.parquet")))
    assert (problem.question, problem.answer) == (question, gold)


@pytest.mark.parametrize("name", TOLD)
def test_what_is_not_clear_is_told_with_a_remedy_that_works(name: str, tmp_path: Path) -> None:
    row, question, gold = TOLD[name]
    path, overrides, problem = write(tmp_path, row), [], None
    for _ in range(3):  # at most one remedy for each column
        try:
            problem = read(load_recipe("demo", [f"problems.source={path}", *overrides]).problems)
            break
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and all(column in str(error) for column in row)
            words = shlex.split(str(error).partition("; write ")[2])
            overrides.append(words[words.index("--set") + 1])
    assert problem is not None and (problem.question, problem.answer) == (question, gold)


TWO = [{"question": "One and one?", "answer": "2"}, {"question": "Two and two?", "answer": "4"}]
COLUMNS = {name: [row[name] for row in TWO] for name in TWO[0]}
BY_ROW = {name: dict(zip("01", values, strict=True)) for name, values in COLUMNS.items()}
LINES = "".join(json.dumps(row) + "\n" for row in TWO)
TABLES = {
    "lines.json": LINES, "list.json": json.dumps(TWO), "pretty.jsonl": json.dumps(TWO, indent=1),
    "one-line.jsonl": json.dumps(TWO), "data.json": json.dumps({"version": "1", "data": TWO}),
    "rows.json": json.dumps({"rows": TWO, "num_rows": 2}), "train.json": json.dumps({"train": TWO}),
    "columns.json": json.dumps(COLUMNS), "pandas.json": json.dumps(BY_ROW),
    "columns-within.json": json.dumps({"data": COLUMNS}), "by-name.json": json.dumps({"a": TWO[0], "b": TWO[1]}),
    "bom.json": "\ufeff" + LINES, "crlf.jsonl": LINES.replace("\n", "\r\n"),
    "bom.csv": "\ufeffquestion,answer\r\nOne and one?,2\r\nTwo and two?,4\r\n",
    "semicolon.csv": 'question;answer\n"One and one?";2\nTwo and two?;4\n',
    "tab.csv": "question\tanswer\nOne and one?\t2\nTwo and two?\t4\n",
    "bar.csv": "question|answer\nOne and one?|2\nTwo and two?|4\n",
    "spaced.csv": 'Question , Answer\nOne and one?, "2"\nTwo and two?, 4\n',
    "x.tsv": 'question\tanswer\nOne and one?\t2\nTwo and two?\t4\n',
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_in_any_shape(name: str, packed: bool, tmp_path: Path) -> None:
    data = TABLES[name].encode()
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(data) if packed else data)
    found = load_heldout(ProblemsSection(source=str(path))).heldout
    assert {(problem.question, problem.answer) for problem in found} == {("One and one?", "2"), ("Two and two?", "4")}


def test_an_object_with_several_lists_has_splits(tmp_path: Path) -> None:
    path = tmp_path / "both.json"
    path.write_text(json.dumps({"train": TWO, "test": [{"question": "Three and three?", "answer": 6}]}))
    section = ProblemsSection(source=str(path))
    sets = load_problem_sets(section)
    assert (len(sets.train), [problem.answer for problem in sets.heldout]) == (2, ["6"])
    assert {name: len(rows) for name, rows in all_rows(section).items()} == {"train": 2, "test": 1}
    with pytest.raises(UserError, match=r"""no split "dev"; .*write --set 'problems.splits=\["train", "test"\]'"""):
        load_problem_sets(ProblemsSection(source=str(path), splits=("train", "dev")))


def test_shards_and_packed_files_of_a_folder_are_its_splits(tmp_path: Path) -> None:
    for number, row in enumerate(TWO):
        (tmp_path / f"train-0000{number}-of-00002.jsonl").write_text(json.dumps(row))
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(json.dumps({"question": "Six?", "answer": 6}).encode()))
    sets = load_problem_sets(ProblemsSection(source=str(tmp_path)))
    assert ([p.answer for p in sets.train], [p.answer for p in sets.heldout]) == (["2", "4"], ["6"])


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_a_folder_that_the_datasets_library_saved(splits: tuple[str, ...], tmp_path: Path) -> None:
    import datasets

    made = {
        name: datasets.Dataset.from_list(TWO if name == "train" else [{"question": "Six?", "answer": "6"}])
        for name in splits
    }
    (datasets.DatasetDict(made) if len(made) > 1 else made["train"]).save_to_disk(str(tmp_path / "saved"))
    sets = load_problem_sets(ProblemsSection(source=str(tmp_path / "saved"), splits=splits, heldout_size=1))
    assert (len(sets.train), len(sets.heldout)) == (2 if len(made) > 1 else 1, 1)
    (shard,) = (tmp_path / "saved").glob("train/*.arrow" if len(made) > 1 else "*.arrow")
    assert len(load_heldout(ProblemsSection(source=str(shard))).heldout) == 2


@pytest.mark.parametrize(
    ("answer", "gold"),
    [(3, "3"), (3.0, "3"), (0.1, "0.1"), (1e16, "10000000000000000"), (1e-7, "0.0000001"), (True, "true"),
     (" 3\u00a0", "3"), ("\u200b3\ufeff", "3"), (["3"], "3"), ([3], "3"), ([3, None], "3"), ('["3"]', "3"),
     (["$3$", "$-3$"], "3, -3"), (r"\boxed{3}", "3"), (r"\fbox{3}", "3"), (r"\boxed3", "3"), ("The answer is 3.", "3"),
     (r"first \boxed{1}, then \boxed{\frac{3}{4}}", r"\frac{3}{4}"), ("so \\boxed{1,200}\n#### 1200", "1200"),
     ("[1, 3]", "[1, 3]")],
)  # fmt: skip
def test_an_answer_of_any_kind(answer: Any, gold: str, tmp_path: Path) -> None:
    assert (
        read(ProblemsSection(source=str(write(tmp_path, {"question": "How many?", "answer": answer})))).answer == gold
    )


def test_a_reward_s_column_may_have_another_name(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "Make 3.", "answer": 3, "numbers": [1, 2], "extra": {"goal": 3}})
    section = load_recipe(
        "demo", [f"problems.source={path}", "problems.columns.nums=numbers", "problems.columns.target=extra.goal"]
    ).problems
    assert read(section).columns == {"numbers": [1, 2], "nums": [1, 2], "extra": {"goal": 3}, "target": 3}


def test_a_reward_that_lacks_its_column_is_told_which_one_it_may_be(tmp_path: Path) -> None:
    path = write(tmp_path, {"numbers": [1, 2], "number_of_steps": 1, "target": 3})
    problem, fmt = read(ProblemsSection(source=str(path))), get_format("xml")
    with pytest.raises(UserError, match=r"lack the column nums; write --set problems\.columns\.nums=numbers, ") as told:
        require_applicable(build_suite({"countdown": 1.0}, fmt), [problem])
    override = shlex.split(str(told.value).partition("; write ")[2])[1].rstrip(",")
    problem = read(load_recipe("demo", [f"problems.source={path}", override]).problems)
    require_applicable(build_suite({"countdown": 1.0}, fmt), [problem])


def test_the_solution_that_marks_the_gold_is_kept_for_rewards(tmp_path: Path) -> None:
    problem = read(ProblemsSection(source=str(write(tmp_path, {"problem": "A half?", "solution": BOX}))))
    assert problem.solution == BOX and problem.columns == {"solution": BOX}


def test_a_number_that_may_be_an_option_or_its_place_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "Which is even?", "choices": ["1", "2", "3"], "answer": 1})
    with pytest.raises(UserError, match='line 1 has 1, which may be an option or the place of one, in "answer"; write'):
        load_heldout(ProblemsSection(source=str(path)))


def test_a_gold_that_its_solution_contradicts_is_told(tmp_path: Path) -> None:
    rows = [
        {"problem": "A half?", "answer": "0.5", "solution": BOX},
        {"problem": "A third?", "answer": "3", "solution": BOX},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = CliRunner().invoke(app, ["check-data", str(path)])
    assert said.exit_code == 0 and said.output.count("though") == 1
    assert r'row 2: gold "3", though its "solution" marks "\frac{1}{2}"' in said.output


def test_prose_without_a_result_is_told_once_for_the_table(tmp_path: Path) -> None:
    prose = "They are two pens, since one pen and one more pen make two of them, as everybody knows by heart."
    with pytest.raises(UserError, match="are prose without a marked result") as told:
        load_heldout(ProblemsSection(source=str(write(tmp_path, {"question": "How many?", "answer": prose}, 30))))
    assert "columns there: question, answer" in str(told.value) and "line" not in str(told.value)
