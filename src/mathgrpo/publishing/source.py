"""What is exported: a run's last checkpoint, one of its checkpoints, or any model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import kept_toml, recipe_from_toml, validated
from mathgrpo.config.sft_recipe import SftRecipe
from mathgrpo.evaluation import evaluation_names, read_evaluation
from mathgrpo.evaluation.records import Evaluation
from mathgrpo.models.locate import adapter_base, locate_model, run_of
from mathgrpo.runs.run_folder import CONFIG, read_info

COMMON = ("run", "problems", "format")
"""Sections of a recipe that runs of every kind have."""


@dataclass(frozen=True, slots=True)
class Source:
    """A trained model and what its run says about it.

    Attributes:
        location: folder or hub id that holds the weights, or the adapter.
        name: what the export is called.
        base: the model an adapter was trained on; None when all weights were trained.
        run: the run folder; None for a model that belongs to none.
        recipe: the run's, else the defaults.
        supervised: the recipe as it was run when the run was supervised; None for another.
        info: the run's run.json, else {}.
        step: the checkpoint's step; None without a run.
        evaluation: the run's own evaluation of exactly these weights; None when it made none.
    """

    location: str
    name: str
    base: str | None
    run: Path | None
    recipe: Recipe
    supervised: SftRecipe | None
    info: Mapping[str, Any]
    step: int | None
    evaluation: Evaluation | None


def find_source(model: str) -> Source:
    """Return what a run folder, a checkpoint in one, a model folder or a hub id stands for.

    Raises: UserError when there is no model.
    """
    location = locate_model(model)
    base = adapter_base(location)
    run = run_of(Path(model).expanduser())
    if run is None:
        folder = Path(location)
        name = folder.resolve().name if folder.is_dir() else model.rpartition("/")[2]
        return Source(location, name, base, None, Recipe(), None, {}, None, None)
    info, digits = read_info(run), Path(location).name.removeprefix("step-")
    step = int(digits) if digits.isdigit() else None
    last = step is not None and step == info.get("steps_done")
    evaluated = "after" if last else f"step-{step}"  # the run's evaluation of exactly these weights, if it made one
    return Source(
        location, f"{run.resolve().name}{'' if step is None or last else f'-step-{step}'}", base, run,
        recipe_of_run(run), supervised_recipe(run), info, step,
        read_evaluation(run, evaluated) if evaluated in evaluation_names(run) else None,
    )  # fmt: skip


def recipe_of_run(run: Path) -> Recipe:
    """Return the recipe of a run of any kind; what its kind does not have is at its default.

    Raises: UserError when it cannot be read.
    """
    supervised = supervised_recipe(run)
    if supervised is None:
        return recipe_from_toml(Recipe, run / CONFIG)
    data = supervised.model_dump(mode="json", exclude_none=True)
    common: dict[str, Any] = {name: data[name] for name in COMMON}
    common["rollout"] = {"max_new_tokens": supervised.training.max_new_tokens}
    common["model"] = {name: data["model"][name] for name in ("path", "lora") if data["model"].get(name)}
    return validated(Recipe, common)


def supervised_recipe(run: Path) -> SftRecipe | None:
    """Return the recipe of a supervised run, None for a run of another kind.

    Raises: UserError when it cannot be read.
    """
    data, _ = kept_toml(SftRecipe, run / CONFIG)
    return validated(SftRecipe, data) if "stages" in data else None


def started_with(run: Path) -> str:
    """Return model.path of a run of any kind, "" when it began with a new model."""
    return (supervised_recipe(run) or recipe_of_run(run)).model.path
