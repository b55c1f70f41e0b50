"""Checkpoints: the model as transformers reads it, with what else an exact resume needs. No pickle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mathgrpo.errors import UserError, first_line
from mathgrpo.files import read_json_object, remove_folder, to_json, written_whole
from mathgrpo.models import Policy
from mathgrpo.models.locate import step_folders
from mathgrpo.optim.master_adamw import full_precision
from mathgrpo.optim.optimizer import load_optimizer_tensors, optimizer_tensors

FOLDER = "checkpoints"
OPTIMIZER, STATE = "optimizer.safetensors", "training_state.json"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a run is at, beside weights and optimizer. Problem order, noise and rates follow from the step.

    Attributes:
        step: steps done.
        token_budget: unique tokens of a micro-batch, after halvings.
    """

    step: int
    token_budget: int


def save_checkpoint(
    run: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    keep: int,
    best: Sequence[Path] = (),
) -> Path:
    """Return the folder checkpoints/step-N of a run, written whole or not at all.

    All but the last `keep` checkpoints and `best` are removed.

    A checkpoint of this step that is there already stays as it is.
    Raises: UserError when the disk is full or the folder cannot be written; older checkpoints are untouched.
    """
    folder = run / FOLDER / f"step-{state.step}"
    if not (folder / STATE).is_file():
        with writing(folder, f"free the disk, then continue with --resume {run}") as temporary:
            _write(temporary, policy, optimizer, state)
    remove_older(checkpoints(run), keep, best)
    return folder


def remove_older(found: Sequence[Path], keep: int, best: Sequence[Path] = ()) -> None:
    """Remove all but the last `keep` of these checkpoints, oldest first, and `best`."""
    for old in found[:-keep]:
        if old not in best:
            remove_folder(old)


def save_model(run: Path, policy: Policy, step: int) -> Path:
    """Return the folder checkpoints/step-N with the model and its tokenizer alone, written whole or not at all.

    Raises: UserError when the disk is full or the folder cannot be written.
    """
    folder = run / FOLDER / f"step-{step}"
    if not folder.exists():
        with writing(folder, "free the disk and begin anew, from an earlier model where one is there") as temporary:
            policy.save(temporary)
    return folder


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run folder, oldest first."""
    return [folder for folder in step_folders(run / FOLDER) if (folder / STATE).is_file()]


def load_state(checkpoint: Path) -> TrainingState:
    """Return the training state of a checkpoint.

    Raises: UserError when it cannot be read.
    """
    values = read_json_object(checkpoint / STATE)
    try:
        return TrainingState(step=int(values["step"]), token_budget=int(values["token_budget"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint / STATE}: damaged ({error!r}); remove {checkpoint} to resume from an older one"
        ) from error


def save_optimizer(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Write the optimizer's state into a folder."""
    tensors = optimizer_tensors(policy.model, optimizer)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / OPTIMIZER)


def load_optimizer(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the state it had at a checkpoint.

    Raises: UserError when it cannot be read.
    """
    try:
        load_optimizer_tensors(policy.model, optimizer, load_file(checkpoint / OPTIMIZER))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"{checkpoint / OPTIMIZER}: damaged ({first_line(error)}); remove {checkpoint} to resume from an older one"
        ) from error


def _write(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    with full_precision(optimizer):
        policy.save(folder)
    save_optimizer(folder, policy, optimizer)
    (folder / STATE).write_text(to_json(asdict(state)) + "\n")


@contextmanager
def writing(folder: Path, remedy: str) -> Iterator[Path]:
    """Yield a folder to fill that becomes the checkpoint; one that is there without its state was never complete.

    Raises: UserError when the disk is full or it cannot be written.
    """
    try:
        with written_whole(folder) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{folder}: the checkpoint cannot be written ({reason}); {remedy}") from error
