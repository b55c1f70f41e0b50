"""The run folder: made once, appended to line by line, never overwritten."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mathgrpo.config import Recipe, recipe_to_toml
from mathgrpo.config.load_recipe import recipe_from_toml
from mathgrpo.config.recipe import RunSection, Section
from mathgrpo.errors import UserError
from mathgrpo.evaluation import GainParts, SetVerdict
from mathgrpo.evaluation.records import ANSWER
from mathgrpo.files import append_whole, read_json_lines, read_json_object, to_json, write_atomically
from mathgrpo.hardware.processor import versions_of
from mathgrpo.models import Policy
from mathgrpo.text import signed

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
    """Raise UserError, with how to go on with what is there, if something is in the way of a new run folder."""
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


PACKAGES = ("mathgrpo", "torch", "transformers", "tokenizers", "peft")


def start_info(
    policy: Policy, folder: Path, recipe_name: str, command: Sequence[str], started: datetime, notes: Sequence[str]
) -> dict[str, Any]:
    """Return run.json as it is when a run of any kind begins."""
    return {
        "name": folder.name,
        "recipe": recipe_name,
        "command": shlex.join(command),
        "versions": versions(),
        "device": device_name(policy.device),
        "model": policy.name,
        "start_time": started.isoformat(timespec="seconds"),
        "end_time": None,
        "status": "running",
        "notes": list(notes),
    }


def finished_info(info: Mapping[str, Any], status: str, step: int) -> dict[str, Any]:
    """Return run.json with how and when the run ended."""
    ended = datetime.now().astimezone().isoformat(timespec="seconds")
    return dict(info) | {"status": status, "end_time": ended, "steps_done": step}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages whose numbers decide a run's results."""
    return versions_of(PACKAGES)


def device_name(device: str) -> str:
    """Return the device with its model name where it is known."""
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def verdict_text(verdicts: Mapping[str, SetVerdict]) -> list[str]:
    """Return the verdicts for a reader: each with the causes of its gain and the change of each reward below."""
    return [line for verdict in verdicts.values() for line in (verdict.line, *verdict_details(verdict))]


def verdict_details(verdict: SetVerdict) -> list[str]:
    """Return what stands below a verdict: the causes of its gain, and how each reward has changed."""
    by_answer = verdict.comparison.correct == ANSWER
    return [gain_line(verdict.parts, by_answer=by_answer), *(f"  {change.line}" for change in verdict.rewards)]


def gain_line(parts: GainParts, *, by_answer: bool = True) -> str:
    """Return where a gain comes from, in points. by_answer: no reward decides on correct.

    Example:
        >>> gain_line(GainParts(format=1.0, working=15.25, arithmetic=-0.5))
        '  of which format +1.0, choosing to work +15.2, better arithmetic −0.5 points'
    """
    better = "better arithmetic" if by_answer else "better solutions"
    named = {"format": parts.format, "choosing to work": parts.working, better: parts.arithmetic}
    shown = ", ".join(f"{name} {signed(value, 1)}" for name, value in named.items())
    return f"  of which {shown} points"
