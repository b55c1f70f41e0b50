"""Uploading a trained model to the model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError, first_line
from mathgrpo.hub import is_reachable
from mathgrpo.trl_api.grpo_config import GRPOConfig

_UPLOADED = [
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "chat_template*", "added_tokens.json",
    "README.md",
]  # fmt: skip


def repository_name(args: GRPOConfig) -> str:
    """Return the hub repository of a run: hub_model_id, or the name of its output folder."""
    return args.hub_model_id or Path(args.output_dir).resolve().name


def require_hub(args: GRPOConfig) -> None:
    """Return when the hub answers, before a run whose model goes there.

    Raises: UserError otherwise.
    """
    if not is_reachable():
        raise UserError(
            "push_to_hub=True: the model hub does not answer; leave it out and upload the model afterwards with: "
            f"hf upload {repository_name(args)} {args.output_dir}"
        )


def push(folder: Path, args: GRPOConfig, commit_message: str, **options: Any) -> str:
    """Upload a saved model (weights, configuration, tokenizer; no optimizer state) and return its address.

    Raises: UserError when the hub cannot be reached, or refuses.
    """
    name = repository_name(args)
    if not is_reachable():
        raise UserError(
            f"push_to_hub: the model hub does not answer; the model is in {folder}, upload it later with: "
            f"hf upload {name} {folder}"
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=args.hub_token)
    try:
        repository = api.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=commit_message, revision=args.hub_revision,
            allow_patterns=_UPLOADED, ignore_patterns=["optimizer*", "rng_state*", "checkpoint-*", "checkpoint-*/*"],
            **options,
        )  # fmt: skip
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"push_to_hub: {name} was refused ({first_line(error)}); log in with `hf auth login`, or set HF_TOKEN; "
            f"the model is in {folder}"
        ) from error
    return str(commit.commit_url)
