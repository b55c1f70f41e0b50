"""Run folders are never overwritten, and their files are whole."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import RunSection
from mathgrpo.errors import UserError
from mathgrpo.runs.run_folder import (
    append_lines,
    choose_run_folder,
    create_run_folder,
    forget_after,
    open_run_folder,
    read_info,
    write_info,
)
from mathgrpo.training.train_recipe import require_unfinished, resumed_recipe

NOW = datetime(2026, 11, 21, 9, 8, 7)


def test_a_run_without_a_name_gets_recipe_date_and_time(tmp_path: Path) -> None:
    section = RunSection(output_dir=str(tmp_path))
    folder = choose_run_folder(section, "demo", NOW)
    assert folder == tmp_path / "demo-20261121-090807"
    folder.mkdir()
    assert choose_run_folder(section, "demo", NOW).name == "demo-20261121-090807-2"


def test_a_folder_with_something_in_it_is_refused_with_a_remedy(tmp_path: Path) -> None:
    section = RunSection(output_dir=str(tmp_path), name="mine")
    create_run_folder(tmp_path / "mine", Recipe(), {})
    with pytest.raises(UserError, match=r"exists already; continue it with --resume .*mine, or choose another"):
        choose_run_folder(section, "demo", NOW)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists already; choose another"):
        choose_run_folder(RunSection(output_dir=str(tmp_path), name="file"), "demo", NOW)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        create_run_folder(tmp_path / "file" / "run", Recipe(), {})


def test_the_recipe_comes_back_from_the_folder(tmp_path: Path) -> None:
    recipe = Recipe(run=RunSection(name="mine", seed=3), rewards={"correct": 2.0})
    create_run_folder(tmp_path / "mine", recipe, {"status": "running"})
    assert open_run_folder(tmp_path / "mine") == recipe
    assert read_info(tmp_path / "mine") == {"status": "running"}
    assert resumed_recipe(tmp_path / "mine", ["training.steps=300"]).training.steps == 300
    with pytest.raises(UserError, match="a resumed run keeps its recipe"):
        resumed_recipe(tmp_path / "mine", ["grpo.beta=0.1"])
    with pytest.raises(UserError, match="not a run folder"):
        open_run_folder(tmp_path)


def test_lines_after_a_step_and_a_cut_line_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_lines(path, [{"step": 1, "reward": 0.5}, {"step": 2, "reward": float("nan")}, {"step": 3}])
    with path.open("a") as file:
        file.write('{"step": 4, "rew')
    forget_after(path, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "reward": 0.5},
        {"step": 2, "reward": None},
    ]
    forget_after(tmp_path / "none.jsonl", 2)


def test_lone_surrogates_of_a_model_do_not_stop_the_log(tmp_path: Path) -> None:
    append_lines(tmp_path / "r.jsonl", [{"step": 1, "text": "a\ud800b"}])
    assert json.loads((tmp_path / "r.jsonl").read_text())["text"] == "a\ud800b"


def test_a_finished_run_needs_more_steps(tmp_path: Path) -> None:
    write_info(tmp_path, {"status": "finished"})
    with pytest.raises(UserError, match="is finished"):
        require_unfinished(tmp_path, 4, 4)
    with pytest.raises(UserError, match="has done 4 steps already"):
        require_unfinished(tmp_path, 4, 3)
    require_unfinished(tmp_path, 4, 5)
    write_info(tmp_path, {"status": "interrupted"})
    require_unfinished(tmp_path, 4, 4)
