"""A recipe cut down to what any machine runs in seconds: the same run, with smaller numbers."""

from __future__ import annotations

from typing import Any

from mathgrpo.config.recipe import Recipe

MOST: dict[str, dict[str, int]] = {
    "problems": {"train_size": 8, "heldout_size": 8},
    "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 48},
    "training": {"steps": 4, "checkpoint_every": 2, "evaluate_every": 2},
    "evaluation": {"samples": 1, "max_new_tokens": 48},
}
"""Section -> setting -> what it is at most. 0 stays 0, which means "off" or "as elsewhere" in all of them."""
MARK = "--tiny: "
"""How a note of the recipe begins that says what differs."""


def smaller(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that put a recipe on a CPU, with few and short steps on generated problems.

    Example:
        >>> smaller(Recipe())["training.steps"], smaller(Recipe())["problems.source"]
        (4, 'generated')
    """
    source = recipe.problems.source if recipe.problems.place == "generated" else "generated"
    sizes = {
        f"{section}.{key}": min(getattr(getattr(recipe, section), key), top)
        for section, most in MOST.items()
        for key, top in most.items()
    }
    return {"run.device": "cpu", "problems.source": source, **sizes}
