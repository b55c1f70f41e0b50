"""What a command takes from the run it is pointed at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mathgrpo.cli.eval_command import evaluation_recipe
from mathgrpo.cli.options import WITHOUT_SOLUTION, run_recipe
from mathgrpo.config import Recipe, recipe_to_toml
from mathgrpo.config.load_recipe import validated
from mathgrpo.errors import UserError
from mathgrpo.formats import FORMATS

TOLD = {"enable_thinking": False}


def run_folder(folder: Path, fmt: str) -> Path:
    """A run folder as far as its recipe goes."""
    (folder / "checkpoints").mkdir(parents=True)
    form = {"name": fmt, "chat_template_kwargs": TOLD}
    recipe = validated(Recipe, {"format": form, "rollout": {"max_new_tokens": 77}})
    (folder / "config.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_run_is_asked_in_its_own_format_and_never_shown_the_solution(name: str, tmp_path: Path) -> None:
    run, own = run_folder(tmp_path / "run", name), WITHOUT_SOLUTION.get(name, name)
    export = tmp_path / "export"
    export.mkdir()
    record = {"format": name, "chat_template_kwargs": TOLD, "max_new_tokens": 77}
    (export / "export.json").write_text(json.dumps(record))
    for folder in (run, export):
        recipe = run_recipe(str(folder))
        assert (recipe.format.name, recipe.rollout.max_new_tokens) == (own, 77)
        assert recipe.format.chat_template_kwargs == TOLD
        assert not FORMATS[recipe.format.name].leaky
    # what is named on the command line stands
    asked = {"problems": "", "split": "", "limit": 0, "max_new_tokens": 0}
    assert evaluation_recipe(str(run), fmt=name, **asked).format.name == name
    assert evaluation_recipe(str(run), fmt="", **asked).format.name == own
    other = evaluation_recipe(str(run), fmt="", template='{"enable_thinking": true}', **asked).format
    assert (other.name, other.chat_template_kwargs) == (own, {"enable_thinking": True})
    for bad in ("enable_thinking=false", "[1]"):
        with pytest.raises(UserError, match=r"--chat-template-kwargs .*is no JSON object"):
            evaluation_recipe(str(run), fmt="", template=bad, **asked)


def test_every_leaky_format_has_one_without_the_solution_and_the_same_layout() -> None:
    for name, fmt in FORMATS.items():
        assert fmt.leaky == (name in WITHOUT_SOLUTION)
        if fmt.leaky:
            other = FORMATS[WITHOUT_SOLUTION[name]]
            assert other.marks == fmt.marks and other.write("r", "4") == fmt.write("r", "4")
