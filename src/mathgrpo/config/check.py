"""Settings that are each allowed but cannot go together."""

from __future__ import annotations

from mathgrpo.config.recipe import Recipe


def impossible(recipe: Recipe) -> list[str]:
    """Return one line for each combination of a recipe that cannot run; [] when all is well."""
    return [*_names(recipe), *_rewards(recipe), *_sizes(recipe)]


def _names(recipe: Recipe) -> list[str]:
    name = recipe.run.name
    lines = []
    if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        lines.append(f'run.name="{name}": must be one folder name; say where it goes with run.output_dir')
    if not recipe.run.output_dir.strip():
        lines.append('run.output_dir="": nothing given; name a folder, such as runs')
    if not recipe.problems.source.strip():
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
