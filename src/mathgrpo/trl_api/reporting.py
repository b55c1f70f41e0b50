"""What scripts ask of a trainer beside training: processes, reports, the model card and the model hub."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import log_metrics, save_metrics, save_state

from mathgrpo.distributed import World, join_world
from mathgrpo.errors import UserError
from mathgrpo.hub import is_reachable
from mathgrpo.publishing.card import script_card
from mathgrpo.publishing.export_files import exported_files
from mathgrpo.publishing.publish import upload_files
from mathgrpo.trl_api.grpo_config import GRPOConfig


@cache
def script_world(device: str, timeout_s: float) -> World:
    """Return the world of the processes that torchrun or `accelerate launch` started; joined once, left at the end.

    Raises: UserError when there are fewer devices than processes, or no contact.
    """
    stack = ExitStack()
    world = stack.enter_context(join_world(device, timeout_s))

    def leave() -> None:
        error = getattr(sys, "last_value", None)  # what ended the script, if it was an exception
        with suppress(BaseException):
            stack.__exit__(type(error) if error is not None else None, error, None)

    atexit.register(leave)
    return world


class Processes:
    """What scripts use of `trainer.accelerator`."""

    def __init__(self, world: World, device: str, local_rank: int) -> None:
        self.is_main_process, self.is_local_main_process = world.is_main, local_rank == 0
        self.num_processes, self.process_index, self.local_process_index = world.size, world.rank, local_rank
        self.device = torch.device(device)
        self._world = world

    def print(self, *values: Any, **options: Any) -> None:
        """Print, in the main process."""
        if self.is_local_main_process:
            print(*values, **options)

    def unwrap_model(self, model: Any) -> Any:
        """Return the model: nothing is wrapped around it."""
        return model

    def wait_for_everyone(self) -> None:
        """Return when all processes are here."""
        self._world.gather(None)


class Reporting:
    """Methods of a trainer under the names that transformers' Trainer gives them."""

    args: GRPOConfig
    state: Any
    model: Any
    reward_func_names: list[str]

    is_fsdp_enabled = False
    is_deepspeed_enabled = False
    save_metrics = save_metrics
    save_state = save_state

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print metrics, one a line, under the name of their split ("train", "eval"); None where there is no value."""
        log_metrics(self, split, {name: "None" if value is None else value for name, value in metrics.items()})

    def is_world_process_zero(self) -> bool:
        """Return whether this is the main process."""
        return self.args.process_index == 0

    def is_local_process_zero(self) -> bool:
        """Return whether this is the main process of its machine."""
        return self.args.local_process_index == 0

    @property
    def hub_model_id(self) -> str:
        """The hub repository of push_to_hub: args.hub_model_id, or the name of the output folder."""
        return _repository(self.args)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: Any = None, **_: Any
    ) -> None:
        """Write README.md into args.output_dir: base model, data set, rewards, settings, how to use the model.

        It has the metadata that the hub reads; folders of this machine are not named in it.
        """
        args, folder = self.args, Path(self.args.output_dir)
        name = model_name or folder.resolve().name
        settings = {
            "rewards": ", ".join(self.reward_func_names), "loss": args.loss_type,
            "learning rate": f"{args.learning_rate:g}", "beta": f"{args.beta:g}",
            "completions of a prompt": args.num_generations,
            "completions of a step": args.per_device_train_batch_size * args.gradient_accumulation_steps,
            "tokens of a completion": f"at most {args.max_completion_length}", "temperature": f"{args.temperature:g}",
        }  # fmt: skip
        text = script_card(
            name, args.hub_model_id or name, settings, base=str(getattr(self.model.config, "_name_or_path", "")),
            dataset=dataset_name or "", adapter=hasattr(self.model, "peft_config"),
            tags=[tags] if isinstance(tags, str) else list(tags or []),
        )  # fmt: skip
        (folder / "README.md").write_text(text, encoding="utf-8")


def _repository(args: GRPOConfig) -> str:
    return args.hub_model_id or Path(args.output_dir).resolve().name


def require_hub(args: GRPOConfig, saved: Path | None = None) -> None:
    """Return when the hub answers: before a run whose model goes there, or before the upload of a saved model.

    Raises: UserError otherwise.
    """
    if not is_reachable():
        when, now = ("=True", "leave it out and upload the model") if saved is None else (
            "", f"the model is in {saved}, upload it"
        )  # fmt: skip
        raise UserError(
            f"push_to_hub{when}: the model hub does not answer; {now} later with: hf upload {_repository(args)} "
            f"{saved or args.output_dir}"
        )


def push(folder: Path, args: GRPOConfig, commit_message: str) -> str:
    """Upload a saved model (weights, configuration, tokenizer; no optimizer state) and return its address.

    Raises: UserError when the hub cannot be reached, or refuses.
    """
    require_hub(args, folder)
    return upload_files(
        exported_files(folder), _repository(args), commit_message, caller="push_to_hub",
        private=args.hub_private_repo, public="hub_private_repo=False", token=args.hub_token,
        revision=args.hub_revision,
    )  # fmt: skip
