"""Checkpoints: the model as transformers reads it, with what else an exact resume needs. No pickle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mathgrpo.errors import UserError
from mathgrpo.evaluation.files import read_json_object, to_json
from mathgrpo.models import Policy
from mathgrpo.training.master_adamw import full_precision
from mathgrpo.training.optimizer import load_optimizer_tensors, optimizer_tensors

FOLDER = "checkpoints"
OPTIMIZER, STATE = "optimizer.safetensors", "training_state.json"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a run is at, beside weights and optimizer. Problem order, noise and rates follow from the step.

    Attributes:
        step: steps done.
        token_budget: grpo.token_budget after halvings.
    """

    step: int
    token_budget: int


def save_checkpoint(
    run: Path, policy: Policy, optimizer: torch.optim.Optimizer, state: TrainingState, keep: int
) -> Path:
    """Return the folder checkpoints/step-N of a run, written whole or not at all; all but the last `keep` are removed.

    A checkpoint of this step that is there already stays as it is.
    Raises: UserError when the disk is full or the folder cannot be written; older checkpoints are untouched.
    """
    folder = run / FOLDER / f"step-{state.step}"
    if not (folder / STATE).is_file():
        _write_whole(folder, lambda temporary: _write(temporary, policy, optimizer, state))
    for old in checkpoints(run)[:-keep]:
        _remove(old)
    return folder


def save_model(run: Path, policy: Policy, step: int) -> Path:
    """Return the folder checkpoints/step-N with the model and its tokenizer alone, written whole or not at all.

    Raises: UserError when the disk is full or the folder cannot be written.
    """
    folder = run / FOLDER / f"step-{step}"
    if not folder.exists():
        _write_whole(folder, lambda temporary: _write_model(temporary, policy))
    return folder


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run folder, oldest first."""
    found = [path for path in (run / FOLDER).glob("step-*") if path.name[5:].isdigit() and (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(path.name[5:]))


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


def load_optimizer(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the state it had at a checkpoint.

    Raises: UserError when it cannot be read.
    """
    try:
        load_optimizer_tensors(policy.model, optimizer, load_file(checkpoint / OPTIMIZER))
    except (OSError, SafetensorError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{checkpoint / OPTIMIZER}: damaged ({reason}); remove {checkpoint} to resume from an older one"
        ) from error


def _write_model(folder: Path, policy: Policy) -> None:
    # Adapters: the embeddings never train here, and looking at the base model's would need the hub.
    options: dict[str, Any] = {"save_embedding_layers": False} if hasattr(policy.model, "peft_config") else {}
    policy.model.save_pretrained(folder, **options)
    policy.tokenizer.save_pretrained(folder)


def _write(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    with full_precision(optimizer):
        _write_model(folder, policy)
    tensors = optimizer_tensors(policy.model, optimizer)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / OPTIMIZER)
    (folder / STATE).write_text(to_json(asdict(state)) + "\n")


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside this one, then rename it."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        if folder.exists():
            _remove(folder)  # without its state it was never complete
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(
            f"{folder}: the checkpoint cannot be written ({reason}); free the disk, then continue with "
            f"--resume {folder.parents[1]}"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove(folder: Path) -> None:
    """Remove a folder so that, stopped half-way, no incomplete checkpoint is left under its name."""
    doomed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
