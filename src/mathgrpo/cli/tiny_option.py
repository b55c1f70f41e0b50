"""What --tiny makes of a recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mathgrpo.cli.options import quiet_libraries

if TYPE_CHECKING:
    from mathgrpo.config import Recipe


def tiny_recipe(name_or_path: str, overrides: Sequence[str]) -> Recipe:
    """Return a recipe cut down to seconds on a CPU; what was set on the command line stays as it was set.

    W&B stays offline, unless WANDB_MODE says otherwise.
    """
    from mathgrpo.config import Recipe, load_recipe
    from mathgrpo.config.load_recipe import require_possible, validated
    from mathgrpo.config.overrides import overridden, parse_override
    from mathgrpo.config.tiny_recipe import MARK
    from mathgrpo.supervised.tiny_run import tiny_run

    quiet_libraries()
    os.environ.setdefault("WANDB_MODE", "offline")
    asked = load_recipe(name_or_path, overrides)
    tiny = tiny_run(asked)
    stands = tuple(f"{MARK}{parse_override(override)[0]} = " for override in overrides)
    data = tiny.model_dump(mode="json", exclude_none=True)
    recipe = require_possible(validated(Recipe, overridden(Recipe, data, overrides)))
    return recipe.with_notes(note for note in tiny.notes if not note.startswith(stands))
