"""The one process of a run, under the names that scripts know from Accelerate."""

from __future__ import annotations

import os
from typing import Any

import torch

from mathgrpo.errors import UserError


class SingleProcess:
    """What scripts use of `trainer.accelerator`, for a run of one process.

    Raises: UserError when the script was started as one of several.
    """

    is_main_process = True
    is_local_main_process = True
    num_processes = 1
    process_index = 0

    def __init__(self, device: str) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']}: GRPOTrainer here is one process on one device; "
                "start the script with python, not with torchrun or accelerate launch"
            )
        self.device = torch.device(device)

    def print(self, *values: Any, **options: Any) -> None:
        """Print, as the main process does."""
        print(*values, **options)

    def unwrap_model(self, model: Any) -> Any:
        """Return the model: nothing is wrapped around it."""
        return model

    def wait_for_everyone(self) -> None:
        """Return at once: there is nobody else."""
