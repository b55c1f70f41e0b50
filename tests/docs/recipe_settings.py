"""Every setting of a recipe by its full name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mathgrpo.config import Recipe
from mathgrpo.config.recipe import LoraSection, VllmSection


def defaults(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting's full name and default; a section that is off counts as one setting, and has its own."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from defaults(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


SETTINGS = (
    dict(defaults(Recipe()))
    | dict(defaults(LoraSection(), "model.lora."))
    | dict(defaults(VllmSection(), "rollout.vllm."))
)
