"""From a recipe's name and --set overrides to a checked recipe."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from mathgrpo.config.gone_settings import in_todays_words
from mathgrpo.config.messages import validation_lines
from mathgrpo.config.overrides import overridden
from mathgrpo.config.recipe import Recipe, Section
from mathgrpo.config.recipe_fields import shown
from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.files import readable
from mathgrpo.grpo.objectives import objective_errors

S = TypeVar("S", bound=Section)

PACKAGE_RECIPES = Path(__file__).resolve().parents[1] / "recipes"
"""Where an installed package carries its recipes."""
CHECKOUT_RECIPES = Path(__file__).resolve().parents[3] / "recipes"
"""Where they are when the package is installed in place from a checkout."""


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a GRPO run.

    Raises: UserError with one line for every unknown key, wrong value and impossible combination.
    """
    return require_possible(load_model(Recipe, name_or_path, overrides))


def load_model(model: type[S], name_or_path: str, overrides: Sequence[str] = ()) -> S:
    """Return a recipe of any kind: the TOML file by path or bare name, changed by "section.key=value" in order.

    Raises: UserError with one line for every unknown key and wrong value.
    """
    path = find_recipe(name_or_path)
    if path.name == "config.toml" and (path.parent / "run.json").is_file():
        return recipe_from_toml(model, path, overrides)
    return validated(model, overridden(model, read_toml(path), overrides))


def recipe_from_toml(model: type[S], path: Path, overrides: Sequence[str] = ()) -> S:
    """Return the recipe a run folder keeps in its config.toml, changed by the overrides."""
    return validated(model, overridden(model, kept_toml(model, path)[0], overrides))


def kept_toml(model: type[Section], path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a run folder's config.toml, whenever it was written, as a recipe of today; and what it has no word for."""
    return in_todays_words(model, read_toml(path))


def require_possible(recipe: Recipe) -> Recipe:
    """Return the recipe itself, if its settings go together.

    Raises: UserError with one line for each that do not.
    """
    lines = impossible(recipe)
    if lines:
        raise UserError("\n".join(lines))
    return recipe


def validated(model: type[S], data: dict[str, Any]) -> S:
    """Return plain TOML data as a recipe.

    Raises: UserError with one line for every problem.
    """
    try:
        return model.model_validate(_without_lists(data))
    except ValidationError as error:
        raise UserError("\n".join(validation_lines(error, model))) from None


def find_recipe(name_or_path: str) -> Path:
    """Return the file of a recipe: a path as it is, a bare name from ./recipes, then from the package.

    Raises: UserError that lists the recipes there are.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
        raise UserError(f"recipe={name_or_path}: no such file{_recipes_there_are(path.stem)}")
    for folder in _recipe_folders():
        if (folder / f"{name_or_path}.toml").is_file():
            return folder / f"{name_or_path}.toml"
    raise UserError(f"recipe={name_or_path}: no such recipe{_recipes_there_are(name_or_path)}")


def recipe_names() -> list[str]:
    """Return the bare names that can be given for a recipe, sorted."""
    return sorted({path.stem for folder in _recipe_folders() for path in folder.glob("*.toml")})


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises: UserError when it cannot be read, is empty or is no TOML; the place is named.
    """
    with readable(f"recipe={path}"):
        text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise UserError(f"recipe={path}: the file is empty; write at least one section, such as [training]")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe={path}: not TOML ({error}); text needs quotes, a section is [training]") from None


def _recipe_folders() -> tuple[Path, ...]:
    return Path("recipes"), PACKAGE_RECIPES, CHECKOUT_RECIPES


def _recipes_there_are(name: str) -> str:
    names = recipe_names()
    listed = ", ".join(names) or "none here"
    return f"{did_you_mean(name, names) or ';'} there are: {listed}; or give the path of a .toml file"


def _without_lists(value: Any) -> Any:
    """Return the data with every list as a tuple: recipes never change after loading, and coercion is off."""
    if isinstance(value, dict):
        return {key: _without_lists(item) for key, item in value.items()}
    return tuple(_without_lists(item) for item in value) if isinstance(value, list) else value


SAMPLING: dict[str, tuple[Callable[[float], bool], str]] = {
    "top_p": (lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "top_k": (lambda value: value >= 0 and value == int(value), "a whole number at least 0"),
    "min_p": (lambda value: 0 <= value < 1, "a number at least 0 and below 1"),
}
"""Name in rollout.sampling -> whether it may have a value, and what it takes."""
COLUMNS = ("question", "answer", "solution")


def impossible(recipe: Recipe) -> list[str]:
    """Return one line for each combination of a recipe that cannot run; [] when all is well."""
    loss = objective_errors(recipe.grpo.loss, recipe.grpo.loss_settings)
    return [*_impossible_values(recipe), *_impossible_names(recipe), *loss]


def _impossible_values(recipe: Recipe) -> Iterator[str]:
    name, model, problems, least = recipe.run.name, recipe.model, recipe.problems, recipe.rollout.prompts_per_step
    if name in (".", "..") or any(char in name for char in "/\\\0"):
        yield f'run.name="{name}": must be one folder name; say where it goes with run.output_dir'
    if not recipe.run.output_dir.strip():
        yield 'run.output_dir="": nothing given; name a folder, such as runs'
    if problems.place == "generated" and not (problems.subset or "0").isdecimal():
        yield f'problems.source="{problems.source}": no such draw; use a whole number, as in "generated:18"'
    if not problems.source.strip():
        yield 'problems.source="": nothing given; use "generated", a file, a folder or a hub id'
    if problems.train_size < least:
        yield (
            f"problems.train_size={problems.train_size}: fewer than rollout.prompts_per_step={least}; "
            "a step never takes a problem twice, so raise the one or lower the other"
        )
    if not model.path.strip():
        yield 'model.path="": nothing given; use "starter", a model folder, a run folder or a hub id'
    if model.lora is not None and not model.lora.target_modules:
        yield "model.lora.target_modules=[]: nothing would train; name linear layers, or leave model.lora out"
    if model.quantization != "none" and model.lora is None:
        yield (
            f"model.quantization={model.quantization}: 4-bit weights cannot train; give the adapter that does, "
            "as in --set model.lora.r=16, or use model.quantization=none"
        )
    if not any(recipe.rewards.values()):
        yield "rewards: no reward has a weight, so every advantage would be 0; use for example rewards.correct=1.0"


def _impossible_names(recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong in the tables with free names."""
    for name, column in recipe.problems.columns.items():
        near = "" if name in COLUMNS else did_you_mean(name, COLUMNS)
        if near:
            yield f"problems.columns.{name}: no such column{near} allowed: {', '.join(COLUMNS)}, a reward's column"
        elif not column.strip():
            yield f'problems.columns.{name}="": nothing given; name a column, or leave it out'
    for name, value in recipe.rollout.sampling.items():
        if name not in SAMPLING:
            allowed = f"{did_you_mean(name, list(SAMPLING)) or ';'} allowed: {', '.join(SAMPLING)}"
            yield f"rollout.sampling.{name}={shown(value)}: no such field{allowed}"
        elif not SAMPLING[name][0](value):
            yield f"rollout.sampling.{name}={shown(value)}: out of range; allowed: {SAMPLING[name][1]}"


def recipe_to_toml(recipe: BaseModel) -> str:
    """Return a recipe of any kind as TOML, every field written out; fields that are None are left out."""
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))
