"""checkpoint-N folders: the model as transformers reads it, with what an exact resume needs. No pickle."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from mathgrpo.errors import UserError, first_line
from mathgrpo.models import Policy
from mathgrpo.models.locate import step_folders
from mathgrpo.models.quantized import is_quantized
from mathgrpo.optim.optimizer import load_optimizer_tensors
from mathgrpo.runs.checkpoint import OPTIMIZER, TrainingState, save_optimizer, writing
from mathgrpo.runs.hook import Run
from mathgrpo.trl_api.grpo_config import GRPOConfig

RANDOM, SCHEDULER = "rng_state.safetensors", "scheduler.json"
TRAINER, POSITION, ARGUMENTS = "trainer_state.json", "position.json", "training_args.json"


def save_model(folder: Path, policy: Policy, args: GRPOConfig) -> None:
    """Write model (or adapter), tokenizer and settings so that from_pretrained reads them.

    Raises: UserError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        policy.save(folder)
        (folder / ARGUMENTS).write_text(args.to_json_string() + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the model cannot be written ({first_line(error)}); free the disk") from error


def save_checkpoint(
    folder: Path, run: Run, scheduler: Any, state: Any, randoms: Sequence[dict[str, torch.Tensor]], args: GRPOConfig
) -> None:
    """Write a whole checkpoint or none; save_only_model leaves out what only a resume needs.

    randoms: the `random_states` of every process.
    Raises: UserError when it cannot be written; older checkpoints are untouched.
    """
    with writing(folder, "free the disk") as temporary:
        save_model(temporary, run.policy, args)
        state.save_to_json(str(temporary / TRAINER))
        if args.save_only_model:
            return
        save_optimizer(temporary, run.policy, run.optimizer)
        (temporary / SCHEDULER).write_text(json.dumps(scheduler.state_dict(), default=float) + "\n", encoding="utf-8")
        for rank, tensors in enumerate(randoms):
            save_file(tensors, temporary / (f"{rank}_{RANDOM}" if rank else RANDOM))
        position = {"rollout": run.step, "token_budget": run.token_budget or 0}
        (temporary / POSITION).write_text(json.dumps(position) + "\n", encoding="utf-8")


def checkpoints(output_dir: str) -> list[Path]:
    """Return the checkpoint-N folders of an output folder, oldest first."""
    return step_folders(Path(output_dir), "checkpoint-")


def find_checkpoint(resume: str | bool | Path, output_dir: str) -> Path:
    """Return the checkpoint to resume from: the newest one for True, else the folder named.

    Raises: UserError when it is not there or has no optimizer state.
    """
    if resume is True:
        found = checkpoints(output_dir)
        if not found:
            raise UserError(f"resume_from_checkpoint=True: there is no checkpoint-N folder in {output_dir}")
        folder = found[-1]
    else:
        folder = Path(str(resume))
    missing = [name for name in (TRAINER, POSITION, OPTIMIZER) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"resume_from_checkpoint={resume}: {folder} has no {missing[0]}; give a checkpoint-N folder written by "
            "this trainer, without save_only_model (TRL's own cannot be resumed, but its model can be given as model)"
        )
    return folder


def load_checkpoint(
    folder: Path, policy: Policy, optimizer: Any, scheduler: Any, rank: int
) -> tuple[Any, TrainingState]:
    """Put weights, optimizer, schedule and random states of a checkpoint in place; return what the run is at.

    rank: of this process, which gets its own random states where it had some.
    Raises: UserError when a file is damaged or belongs to another model.
    """
    try:
        load_weights(folder, policy)
        load_optimizer_tensors(policy.model, optimizer, load_file(folder / OPTIMIZER))
        if (folder / SCHEDULER).is_file():
            scheduler.load_state_dict(json.loads((folder / SCHEDULER).read_text(encoding="utf-8")))
            for group, learning_rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = learning_rate
        randoms = folder / (f"{rank}_{RANDOM}" if rank else RANDOM)
        if randoms.is_file():
            _set_random_states(load_file(randoms))
        state = TrainerState.load_from_json(str(folder / TRAINER))
        position = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        return state, TrainingState(int(position["rollout"]), int(position["token_budget"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"resume_from_checkpoint={folder}: cannot be read for this model ({first_line(error)}); "
            "use the model and settings it was written with, or an older checkpoint"
        ) from error


def load_weights(folder: Path, policy: Policy) -> None:
    """Put the weights of a checkpoint, or its adapter, into the model.

    Raises: whatever reading it raises; ValueError when it belongs to another model.
    """
    model = policy.model
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        weights = load_peft_weights(str(folder), device=policy.device)
        result: Any = set_peft_model_state_dict(model, weights)
        if result.unexpected_keys:
            raise ValueError(f"it has weights for {result.unexpected_keys[0]}, which this adapter does not have")
        return
    if is_quantized(model):
        raise ValueError("a quantised model without adapter does not train")
    # By way of from_pretrained: some architectures are written under other names than they have in memory.
    saved = type(model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.load_state_dict(saved.state_dict())


def random_states() -> dict[str, torch.Tensor]:
    """Return the random states that reward functions may draw from."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*map(int, keys), int(position), int(has_gauss)], dtype=torch.int64),
        "numpy_gauss": torch.tensor([float(cached)], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _set_random_states(tensors: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors["torch"])
    version, *words = tensors["python"].tolist()
    gauss = tensors["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *keys, position, has_gauss = tensors["numpy"].tolist()
    cached = tensors["numpy_gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
