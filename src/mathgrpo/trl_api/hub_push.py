"""Uploading a script's model to the model hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError
from mathgrpo.hub import is_reachable
from mathgrpo.publishing.card import script_card
from mathgrpo.publishing.export_files import exported_files
from mathgrpo.publishing.publish import upload_files
from mathgrpo.trl_api.grpo_config import GRPOConfig


def repository_name(args: GRPOConfig) -> str:
    """Return the hub repository of a run: hub_model_id, or the name of its output folder."""
    return args.hub_model_id or Path(args.output_dir).resolve().name


def require_hub(args: GRPOConfig) -> None:
    """Return when the hub answers, before a run whose model goes there.

    Raises: UserError otherwise.
    """
    _require_answer(
        args, args.output_dir, "=True: the model hub does not answer; leave it out and upload the model later"
    )


def push(folder: Path, args: GRPOConfig, commit_message: str, **options: Any) -> str:
    """Upload a saved model (weights, configuration, tokenizer; no optimizer state) and return its address.

    Raises: UserError when the hub cannot be reached, or refuses.
    """
    _require_answer(args, folder, f": the model hub does not answer; the model is in {folder}, upload it later")
    return upload_files(
        exported_files(folder), repository_name(args), commit_message, caller="push_to_hub",
        private=args.hub_private_repo, public="hub_private_repo=False", token=args.hub_token,
        revision=args.hub_revision, **options,
    )  # fmt: skip


def _require_answer(args: GRPOConfig, folder: Path | str, otherwise: str) -> None:
    if not is_reachable():
        raise UserError(f"push_to_hub{otherwise} with: hf upload {repository_name(args)} {folder}")


def model_card(
    model: Any, name: str, dataset: str, tags: Sequence[str], rewards: Sequence[str], args: GRPOConfig
) -> str:
    """Return README.md with the metadata that the hub reads. Folders of this machine are not named in it."""
    settings = {
        "rewards": ", ".join(rewards), "loss": args.loss_type, "learning rate": f"{args.learning_rate:g}",
        "beta": f"{args.beta:g}", "completions of a prompt": args.num_generations,
        "completions of a step": args.per_device_train_batch_size * args.gradient_accumulation_steps,
        "tokens of a completion": f"at most {args.max_completion_length}", "temperature": f"{args.temperature:g}",
    }  # fmt: skip
    base = str(getattr(model.config, "_name_or_path", ""))
    return script_card(
        name, args.hub_model_id or name, settings, base=base, dataset=dataset, adapter=hasattr(model, "peft_config"),
        tags=tags,
    )  # fmt: skip
