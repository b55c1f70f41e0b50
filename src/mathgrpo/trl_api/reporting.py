"""The processes of a script, under the names that scripts know from Accelerate."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

import torch
from transformers.trainer_pt_utils import log_metrics, save_metrics, save_state

from mathgrpo.distributed import World, join_world
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
