"""What a run would do, checked as far as it can be without doing it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mathgrpo.config import Recipe
from mathgrpo.runs.checkpoint import checkpoints
from mathgrpo.runs.run_folder import choose_run_folder
from mathgrpo.runs.trackers import require_trackers
from mathgrpo.training.plan import make_plan, plan_lines
from mathgrpo.training.prepare import prepare


def plan_lines_of(recipe: Recipe, recipe_name: str, *, resume: Path | None = None) -> list[str]:
    """Return the plan of a run for a reader, after every check that comes before step 0. Nothing is written.

    Raises: UserError for whatever is wrong.
    """
    folder = resume if resume is not None else choose_run_folder(recipe.run, recipe_name, datetime.now().astimezone())
    saved = checkpoints(folder)
    require_trackers(recipe.training.trackers)
    ready = prepare(recipe, saved[-1] if saved else None)
    return plan_lines(ready, make_plan(ready), folder)
