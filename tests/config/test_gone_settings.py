"""Settings that went: refused with their successor from a recipe, understood in the run folders of before."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mathgrpo.config import Recipe, load_recipe
from mathgrpo.config.gone_settings import GONE, in_todays_words
from mathgrpo.config.load_recipe import kept_toml, recipe_from_toml, require_possible
from mathgrpo.config.recipe_fields import field_at, plain_name, section_of
from mathgrpo.config.sft_recipe import SftRecipe
from mathgrpo.errors import UserError

OLD = Path(__file__).with_name("old_config.toml")
"""config.toml of a run of before this table, no setting at its default where another value is allowed."""
OLD_DEFAULTS = Path(__file__).with_name("old_defaults.toml")
"""The same with every setting at its default."""


def leaves(data: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every setting of a recipe by its full name; a table with free names is one."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and key not in ("rewards", "reward_settings"):
            found |= leaves(value, (*path, key))
        else:
            found[plain_name((*path, key))] = value
    return found


def old_settings(path: Path = OLD) -> dict[str, Any]:
    return leaves(tomllib.loads(path.read_text(encoding="utf-8")))


def test_every_setting_of_before_is_a_setting_or_has_a_line_here() -> None:
    settings = old_settings()
    assert len(settings) > 80
    missing = {name for name in settings if field_at(Recipe, name.split(".")) is None} - set(GONE)
    assert not missing
    assert set(GONE) <= set(settings) | set(old_settings(OLD_DEFAULTS)), "only what there was can go"


@pytest.mark.parametrize("name", GONE)
def test_a_recipe_that_names_it_is_told_what_to_write(name: str) -> None:
    value = old_settings()[name]
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    with pytest.raises(UserError) as refused:
        load_recipe("demo", [f"{name}={text}"])
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{name}=") and ": went; " in line and "{" not in line.partition("went")[2]
    for successor in Recipe.model_fields:  # what it names exists
        if f"{successor}." in (words := line.partition(": went; ")[2]):
            path = next(
                word for word in words.replace("=", " ").split() if word.lstrip("[").startswith(f"{successor}.")
            ).strip("[],")
            assert field_at(Recipe, path.split(".")[:2]) is not None


def test_values_an_old_run_folder_has_are_kept_where_they_mean_something() -> None:
    recipe = require_possible(recipe_from_toml(Recipe, OLD))
    assert recipe.problems.source == "openai/gsm8k:main" and recipe.problems.splits == ("train", "validation")
    assert recipe.problems.columns == {"question": "Problem", "answer": "Gold", "solution": "Work"}
    assert recipe.rollout.sampling == {"top_p": 0.9, "top_k": 40, "min_p": 0.01}
    assert recipe.optimizer.betas == (0.8, 0.95)
    assert recipe.grpo.loss_settings == {"epsilon_low": 0.1, "epsilon_high": 0.28}
    assert recipe.rollout.vllm is not None and recipe.rollout.vllm.importance_cap == 2.0
    old, new = old_settings(), leaves(recipe.model_dump(mode="json"))
    same = {name for name in old if name in new} - {"problems.source"}
    assert {name: new[name] for name in same} == {name: old[name] for name in same}


def test_what_cannot_be_kept_is_told_and_what_was_never_chosen_is_not() -> None:
    _, lost = kept_toml(Recipe, OLD)
    told = {line.removeprefix("the run's old ").partition("=")[0] for line in lost}
    assert told == {name for name, gone in GONE.items() if gone.keep is None}
    data, none = kept_toml(Recipe, OLD_DEFAULTS)
    assert none == () and recipe_from_toml(Recipe, OLD_DEFAULTS) == Recipe()
    assert in_todays_words(Recipe, data) == (data, ())


@pytest.mark.parametrize(
    ("changes", "loss_settings", "cap"),
    [
        ({}, {"epsilon_low": 0.1, "epsilon_high": 0.28}, 2.0),
        ({'importance = "on"': 'importance = "off"'}, {"epsilon_low": 0.1, "epsilon_high": 0.28}, 0.0),
        ({'loss = "grpo"': 'loss = "cispo"', "epsilon_low = 0.1": "epsilon_low = 0.2"}, {}, 2.0),  # has no clip
        ({'engine = "vllm"': 'engine = "native"'}, {"epsilon_low": 0.1, "epsilon_high": 0.28}, None),
    ],
)
def test_bounds_and_weights_of_an_old_run_stay_where_they_act(
    tmp_path: Path, changes: dict[str, str], loss_settings: dict[str, float], cap: float | None
) -> None:
    text = OLD.read_text(encoding="utf-8")
    for before, after in changes.items():
        assert text.count(f"\n{before}\n") == 1
        text = text.replace(f"\n{before}\n", f"\n{after}\n")
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    recipe = require_possible(recipe_from_toml(Recipe, tmp_path / "config.toml"))
    assert recipe.grpo.loss_settings == loss_settings
    assert (recipe.rollout.vllm.importance_cap if recipe.rollout.vllm is not None else None) == cap


def test_an_old_draw_of_generated_problems_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[problems]\nsource = "generated"\nseed = 18\n')
    assert recipe_from_toml(Recipe, path).problems.draw == 18
    path.write_text("[problems]\nseed = 17\n[[stages]]\ntokens = 5\n")
    assert recipe_from_toml(SftRecipe, path).problems.draw == 17


def test_a_run_folders_config_is_a_recipe_still(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(OLD.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="went"):
        load_recipe(str(config))
    (tmp_path / "run.json").write_text("{}")
    assert load_recipe(str(config)).optimizer.betas == (0.8, 0.95)


def counted(model: Any, path: str = "") -> list[str]:
    """Return the settings of a recipe: a table with free names is one, each of an adapter counts."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        found += counted(section, f"{path}{name}.") if section is not None else [f"{path}{name}"]
    return found


def test_a_recipe_has_few_settings() -> None:
    settings = [name for name in counted(Recipe) if not name.startswith("rollout.vllm.")]
    assert len(settings) <= 47, settings
