"""The processes of a script, under the names that scripts know from Accelerate."""

from __future__ import annotations

import atexit
import sys
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

import torch

from mathgrpo.distributed import World, join_world


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
