"""The run folder: made once, appended to line by line, never overwritten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mathgrpo.config import Recipe, recipe_to_toml
from mathgrpo.config.load_recipe import recipe_from_toml
from mathgrpo.config.recipe import RunSection, Section
from mathgrpo.errors import UserError
from mathgrpo.files import append_whole, read_json_lines, read_json_object, to_json, write_atomically

CONFIG, INFO, METRICS, ROLLOUTS = "config.toml", "run.json", "metrics.jsonl", "rollouts.jsonl"


def choose_run_folder(section: RunSection, recipe_name: str, now: datetime, *, resumable: bool = True) -> Path:
    """Return the folder a new run will have: output_dir / name, or recipe name, date and time when it has none.

    resumable: whether a run of this kind that is there already could be continued.

    Raises: UserError when a named folder holds something already.
    """
    root = Path(section.output_dir).expanduser()
    if section.name:
        folder = root / section.name
        require_free(folder, resumable=resumable)
        return folder
    name = f"{recipe_name}-{now:%Y%m%d-%H%M%S}"
    candidates = (root / (name if i == 1 else f"{name}-{i}") for i in range(1, 1000))
    return next(folder for folder in candidates if not folder.exists())


def require_free(folder: Path, *, resumable: bool = True) -> None:
    """Return when nothing is in the way of a new run folder.

    Raises: UserError that says how to go on with what is there.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        remedy = f"continue it with --resume {folder}, or " if resumable and (folder / CONFIG).is_file() else ""
        raise UserError(
            f"run.name={folder.name}: {folder} exists already; {remedy}choose another with --set run.name=NAME"
        )


def create_run_folder(folder: Path, recipe: Section, info: dict[str, Any]) -> None:
    """Make a run folder with its resolved recipe and its run.json.

    Raises: UserError when it cannot be made or is not free.
    """
    require_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"run.output_dir={folder.parent}: {folder} cannot be made ({error.strerror}); choose another"
        ) from error
    write_atomically(folder / CONFIG, recipe_to_toml(recipe))
    write_info(folder, info)


def open_run_folder(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a run folder, changed by the overrides.

    Raises: UserError when it is no run folder.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"--resume {folder}: not a run folder (no {CONFIG}); give the folder that the run named when it stopped"
        )
    return recipe_from_toml(Recipe, folder / CONFIG, overrides)


def read_info(folder: Path) -> dict[str, Any]:
    """Return run.json, {} when there is none."""
    return read_json_object(folder / INFO) if (folder / INFO).is_file() else {}


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write run.json whole."""
    write_atomically(folder / INFO, to_json(info, indent=1) + "\n")


def append_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append one JSON line a row, all of them or none. What JSON does not know, a number that is not finite, is null.

    Raises: UserError when the disk is full or the file cannot be written.
    """
    text = "".join(to_json(_finite(row)) + "\n" for row in rows)
    try:
        append_whole(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free the disk, then continue with --resume {path.parent}"
        ) from error


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps after this one, and a last line that was cut in the middle."""
    if not path.is_file():
        return
    kept = [row for _, row in read_json_lines(path, forgive_cut_end=True) if row.get("step", 0) <= step]
    write_atomically(path, "".join(to_json(row) + "\n" for row in kept))


def _finite(value: Any) -> Any:
    """Return JSON data with every number that is not finite as None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
