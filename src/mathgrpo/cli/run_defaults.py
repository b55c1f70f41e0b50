"""What a command takes from the run folder it is pointed at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mathgrpo.config import Recipe

WITHOUT_SOLUTION = {"think_leaky": "think"}
"""Format that shows the solution in the prompt -> the same layout without it."""


def run_recipe(model: str) -> Recipe:
    """Return the recipe of the run a model belongs to (its folder, a checkpoint, an export), else the defaults.

    A format that shows solutions in the prompt becomes its sound one: who asks a question has no solution to show, and
    an evaluation is to measure reasoning.
    """
    from mathgrpo.config import Recipe
    from mathgrpo.config.load_recipe import kept_toml, validated
    from mathgrpo.files import read_json_object
    from mathgrpo.models.locate import run_of

    folder = Path(model).expanduser()
    exported = folder / "export.json"
    if exported.is_file():
        record = read_json_object(exported)
        rollout = {"max_new_tokens": record.get("max_new_tokens")}
        return _asking(validated(Recipe, {"format": {"name": record.get("format")}, "rollout": rollout}))
    run = run_of(folder)
    if run is None:
        return Recipe()
    data, _ = kept_toml(Recipe, run / "config.toml")
    # A supervised run has other sections; what both kinds have in common is all that is wanted here.
    wanted: dict[str, Any] = {name: data[name] for name in ("problems", "format", "rollout") if name in data}
    return _asking(validated(Recipe, wanted))


def _asking(recipe: Recipe) -> Recipe:
    """Return the recipe with a format whose prompt is the question alone."""
    sound = WITHOUT_SOLUTION.get(recipe.format.name, recipe.format.name)
    return recipe.model_copy(update={"format": recipe.format.model_copy(update={"name": sound})})
