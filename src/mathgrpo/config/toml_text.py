"""A recipe as TOML text that loads back to the same recipe."""

from __future__ import annotations

import tomli_w
from pydantic import BaseModel


def recipe_to_toml(recipe: BaseModel) -> str:
    """Return a recipe of any kind as TOML, every field written out; fields that are None are left out."""
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))
