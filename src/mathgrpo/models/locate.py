"""From what the user wrote in model.path to a folder or hub id that transformers can load."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mathgrpo.errors import UserError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MODEL_FILES = ("config.json", "adapter_config.json")


def starter_path() -> Path:
    """Return the folder of the starter model inside the installed package (it may be absent)."""
    return Path(__file__).resolve().parent / "starter"


def locate_model(path: str) -> str:
    """Return the folder or hub id to load for a recipe's model.path.

    "starter" is the package's own model; a run folder means its last checkpoint; an existing folder is itself;
    anything else that looks like a hub id is passed on.

    Raises: UserError when nothing can be there.
    """
    if path == "starter":
        return str(_starter())
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(_checkpoint_in(folder, path))
    if folder.exists():
        raise UserError(f"model.path={path}: is a file; give the model's folder, a run folder or a hub id")
    if not _HUB_ID.fullmatch(path) or path.startswith("."):
        raise UserError(f'model.path={path}: no such folder; give a model folder, a run folder, a hub id or "starter"')
    if runs := _runs_beside(folder):  # runs/NAME also has the form of a hub id
        raise UserError(f"model.path={path}: no such folder; the runs in {folder.parent} are: {', '.join(runs)}")
    return path


def run_of(folder: Path) -> Path | None:
    """Return the run folder that a folder is, or whose checkpoint it is; None when it belongs to no run."""
    if not folder.is_dir():
        return None
    candidates = (folder, *folder.resolve().parents[:2])
    return next((run for run in candidates if (run / "config.toml").is_file() and (run / "checkpoints").is_dir()), None)


def _runs_beside(folder: Path) -> list[str]:
    """Return the run folders that lie where this folder would, none in the working directory itself."""
    places = [] if folder.parent == Path() else folder.parent.glob("*/config.toml")
    return sorted(place.parent.name for place in places)


def _starter() -> Path:
    folder = starter_path()
    if not (folder / "config.json").is_file():
        raise UserError(
            "model.path=starter: the starter model is missing from this installation; reinstall mathgrpo, "
            "or train it with: mathgrpo sft recipes/starter-sft.toml"
        )
    return folder


def _checkpoint_in(folder: Path, path: str) -> Path:
    """Return the model folder itself, or the last complete checkpoint of a run folder."""
    if _holds_model(folder):
        return folder
    root = folder if folder.name == "checkpoints" else folder / "checkpoints"
    steps = [step for step in step_folders(root) if _holds_model(step)]
    if steps:
        return steps[-1]
    if root.is_dir():
        raise UserError(
            f"model.path={path}: this run folder has no complete checkpoint yet; train longer or give a model"
        )
    raise UserError(
        f"model.path={path}: not a model folder (no config.json) and not a run folder (no checkpoints/); "
        "give a folder written by save_pretrained, a run folder or a hub id"
    )


def step_folders(checkpoints: Path, prefix: str = "step-") -> list[Path]:
    """Return the step-N folders in a run's folder of checkpoints, in the order of N."""
    steps = {path.name.removeprefix(prefix): path for path in checkpoints.glob(f"{prefix}*") if path.is_dir()}
    return [steps[step] for step in sorted(filter(str.isdigit, steps), key=int)]


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MODEL_FILES)


def adapter_base(location: str) -> str | None:
    """Return the base model an adapter folder was trained on, or None when the folder is no adapter.

    A starter model that has moved with the installation is found again by its place in the package.
    """
    config = Path(location) / "adapter_config.json"
    if not config.is_file():
        return None
    try:
        base = str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError) as error:
        raise UserError(
            f"model.path={location}: adapter_config.json names no base model; save the adapter again"
        ) from error
    if not Path(base).exists() and Path(base).parts[-2:] == ("models", "starter"):
        return str(_starter())
    return base
