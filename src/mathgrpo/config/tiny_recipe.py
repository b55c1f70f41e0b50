"""A recipe cut down to what any machine runs in seconds: the same run, with smaller numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mathgrpo.config.recipe import ProblemsSection, Recipe

MOST: dict[str, dict[str, int]] = {
    "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 48},
    "training": {"steps": 4, "checkpoint_every": 2, "evaluate_every": 2},
    "evaluation": {"samples": 1, "max_new_tokens": 48},
}
"""Section -> setting -> what it is at most. 0 stays 0, which means "off" or "as elsewhere" in all of them."""
TRAIN_SIZE, HELDOUT_SIZE = 8, 8
MARK = "--tiny: "
"""How a note of the recipe begins that says what differs."""


def smaller(recipe: Recipe) -> Recipe:
    """Return the recipe on a CPU with few and short steps on generated problems. What it trains and how stays.

    Example:
        >>> smaller(Recipe()).training.steps, smaller(Recipe()).optimizer == Recipe().optimizer
        (4, True)
    """
    update: dict[str, Any] = {}
    for name, most in MOST.items():
        section = getattr(recipe, name)
        update[name] = section.model_copy(update={key: min(getattr(section, key), top) for key, top in most.items()})
    source = recipe.problems.source if recipe.problems.place == "generated" else "generated"
    update["problems"] = ProblemsSection(source=source, train_size=TRAIN_SIZE, heldout_size=HELDOUT_SIZE)
    update["run"] = recipe.run.model_copy(update={"device": "cpu"})
    return recipe.model_copy(update=update)


def differences(before: Recipe, after: Recipe) -> list[str]:
    """Return one line for each setting of two recipes that differs.

    Example:
        >>> differences(Recipe(), smaller(Recipe()))[0]
        'run.device = cpu (recipe: auto)'
    """
    old, new = dict(_flat(before.model_dump(), "")), dict(_flat(after.model_dump(), ""))
    names = [*new, *(name for name in old if name not in new and name.rpartition(".")[0] not in new)]
    tables = {name.rpartition(".")[0]: "a table" for name in old}
    pairs = ((name, new.get(name), old.get(name, tables.get(name))) for name in names)
    return [f"{name} = {_shown(now)} (recipe: {_shown(then)})" for name, now, then in pairs if now != then]


def _flat(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value) or "none"
