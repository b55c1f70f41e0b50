"""Settings that are each allowed but cannot go together."""

from __future__ import annotations

from collections.abc import Callable

from mathgrpo.config.recipe import Recipe
from mathgrpo.config.recipe_fields import shown
from mathgrpo.errors import did_you_mean
from mathgrpo.grpo.objectives import objective_errors

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
    return [*_names(recipe), *_tables(recipe), *_rewards(recipe), *loss, *_sizes(recipe)]


def _names(recipe: Recipe) -> list[str]:
    name = recipe.run.name
    lines = []
    if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        lines.append(f'run.name="{name}": must be one folder name; say where it goes with run.output_dir')
    if not recipe.run.output_dir.strip():
        lines.append('run.output_dir="": nothing given; name a folder, such as runs')
    problems = recipe.problems
    if problems.place == "generated" and not (problems.subset or "0").isdecimal():
        lines.append(f'problems.source="{problems.source}": no such draw; use a whole number, as in "generated:18"')
    if not problems.source.strip():
        lines.append('problems.source="": nothing given; use "generated", a file, a folder or a hub id')
    if not recipe.model.path.strip():
        lines.append('model.path="": nothing given; use "starter", a model folder, a run folder or a hub id')
    if recipe.model.lora is not None and not recipe.model.lora.target_modules:
        lines.append("model.lora.target_modules=[]: nothing would train; name linear layers, or leave model.lora out")
    if recipe.model.quantization != "none" and recipe.model.lora is None:
        lines.append(
            f"model.quantization={recipe.model.quantization}: 4-bit weights cannot train; give the adapter that does, "
            "as in --set model.lora.r=16, or use model.quantization=none"
        )
    return lines


def _tables(recipe: Recipe) -> list[str]:
    """Return what is wrong in the tables with free names."""
    lines = []
    for name in set(recipe.problems.columns) - set(COLUMNS):
        near = did_you_mean(name, COLUMNS)
        lines.append(f"problems.columns.{name}: no such column{near or ';'} allowed: {', '.join(COLUMNS)}")
    for name, value in recipe.rollout.sampling.items():
        if name not in SAMPLING:
            allowed = f"{did_you_mean(name, list(SAMPLING)) or ';'} allowed: {', '.join(SAMPLING)}"
            lines.append(f"rollout.sampling.{name}={shown(value)}: no such field{allowed}")
        elif not SAMPLING[name][0](value):
            lines.append(f"rollout.sampling.{name}={shown(value)}: out of range; allowed: {SAMPLING[name][1]}")
    return lines


def _rewards(recipe: Recipe) -> list[str]:
    if any(recipe.rewards.values()):
        return []
    return ["rewards: no reward has a weight, so every advantage would be 0; use for example rewards.correct=1.0"]


def _sizes(recipe: Recipe) -> list[str]:
    problems, rollout = recipe.problems, recipe.rollout
    if problems.train_size >= rollout.prompts_per_step:
        return []
    return [
        f"problems.train_size={problems.train_size}: fewer than rollout.prompts_per_step={rollout.prompts_per_step}; "
        "a step never takes a problem twice, so raise the one or lower the other"
    ]
