"""Going on with a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mathgrpo.config import Recipe, recipe_to_toml
from mathgrpo.config.load_recipe import kept_toml
from mathgrpo.config.tiny_recipe import MARK
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluation_names
from mathgrpo.evaluation.evaluation_files import EVALUATION_FOLDER
from mathgrpo.files import write_atomically
from mathgrpo.runs.run_folder import CONFIG, METRICS, ROLLOUTS, forget_after, open_run_folder, read_info, write_info

MAY_CHANGE = (
    "training.", "run.device",
)  # fmt: skip
"""What can be set on a resumed run: nothing that would make its first half another run than its second."""


def resumed_recipe(folder: Path, overrides: Sequence[str]) -> Recipe:
    """Return the recipe to go on with: the run folder's own, changed where that is honest.

    Raises: UserError for an override that would change what the run has done already, or no run folder.
    """
    for override in overrides:
        if not override.strip().startswith(MAY_CHANGE):
            names = ", ".join(name.rstrip(".") for name in MAY_CHANGE)
            raise UserError(
                f"--set {override}: a resumed run keeps its recipe; only {names} can be set; "
                "start a new run to change more"
            )
    recipe = open_run_folder(folder, overrides)
    kept = [note for note in read_info(folder).get("notes", []) if note.startswith(MARK)]
    return recipe.with_notes((*kept, *kept_toml(Recipe, folder / CONFIG)[1]))


def require_same(given: Recipe, kept: Recipe, folder: Path) -> None:
    """Return when a recipe named together with --resume is the one the run keeps.

    Raises: UserError that names the first difference.
    """
    for section in Recipe.model_fields:
        one, two = getattr(given, section), getattr(kept, section)
        if section == "model" and given.model.dtype == "auto":
            one = given.model.model_copy(update={"dtype": kept.model.dtype})  # the run has settled it
        if section not in ("run", "training") and one != two:
            raise UserError(
                f"--resume {folder}: the recipe's [{section}] is not the run's; "
                "leave the recipe out to go on with the run's own"
            )


def require_unfinished(folder: Path, step: int, steps: int) -> None:
    """Return when there is something left to do.

    Raises: UserError when the run has ended, or is longer already than it shall become.
    """
    if step > steps:
        raise UserError(f"training.steps={steps}: the run has done {step} steps already; use more than {step}")
    if step == steps and read_info(folder).get("status") == "finished":
        raise UserError(
            f"--resume {folder}: the run is finished ({step} steps); go on with --set training.steps=N, N above {step}"
        )


def reopen(folder: Path, recipe: Recipe, info: dict[str, Any], step: int) -> dict[str, Any]:
    """Return run.json of a run that goes on after this step, with everything written after it taken back."""
    before = read_info(folder)
    kept = {key: before[key] for key in ("start_time", "command", "best") if key in before}
    info = info | kept | {"resumed_after": [*before.get("resumed_after", []), step]}
    forget_after(folder / METRICS, step)
    forget_after(folder / ROLLOUTS, step)
    for name in evaluation_names(folder):
        if _is_later(name, step, recipe.training.steps):
            for suffix in (".json", ".jsonl"):
                (folder / EVALUATION_FOLDER / f"{name}{suffix}").unlink(missing_ok=True)
    for stale in folder.glob("checkpoints/.step-*"):
        with suppress(OSError):
            shutil.rmtree(stale)
    for name in ("verdict.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / CONFIG, recipe_to_toml(recipe))
    write_info(folder, info)
    return info


def _is_later(name: str, step: int, steps: int) -> bool:
    """Return whether an evaluation was made after a step: "after" is, unless all steps are done."""
    plain = name.removesuffix("-templates")
    if plain == "after":
        return step < steps
    return plain.startswith("step-") and plain[5:].isdigit() and int(plain[5:]) > step
