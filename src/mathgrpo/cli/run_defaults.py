"""What a command takes from the run folder it is pointed at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mathgrpo.config import Recipe


def run_recipe(model: str) -> Recipe:
    """Return the recipe of the run a model belongs to (its folder, a checkpoint, an export), else the defaults."""
    from mathgrpo.config import Recipe
    from mathgrpo.config.load import read_toml, validated
    from mathgrpo.evaluation.files import read_json_object

    folder = Path(model).expanduser()
    exported = folder / "export.json"
    if exported.is_file():
        record = read_json_object(exported)
        rollout = {"max_new_tokens": record.get("max_new_tokens")}
        return validated(Recipe, {"format": {"name": record.get("format")}, "rollout": rollout})
    for run in (folder, *folder.resolve().parents[:2]) if folder.is_dir() else ():
        config = run / "config.toml"
        if config.is_file() and any((run / name).is_dir() for name in ("checkpoints", "model")):
            data = read_toml(config)
            # A supervised run has other sections; what both kinds have in common is all that is wanted here.
            return validated(Recipe, {name: data[name] for name in ("problems", "format", "rollout") if name in data})
    return Recipe()
