"""What scripts and callbacks ask of training arguments besides settings: the process, the device, the batch."""

from __future__ import annotations

import math
import os
from typing import Any


class RunFacts:
    """Facts about a run, under the names that transformers' TrainingArguments gives them."""

    use_cpu: bool
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    steps_per_generation: int | None
    generation_batch_size: int | None
    num_generations: int
    warmup_steps: float
    warmup_ratio: float | None

    @property
    def world_size(self) -> int:
        """Processes of the run, as torchrun or `accelerate launch` has started them."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def process_index(self) -> int:
        """This process's rank."""
        return int(os.environ.get("RANK", "0"))

    @property
    def local_process_index(self) -> int:
        """This process's rank on its machine."""
        return int(os.environ.get("LOCAL_RANK", "0"))

    @property
    def should_save(self) -> bool:
        """Whether this process writes checkpoints."""
        return self.process_index == 0

    @property
    def should_log(self) -> bool:
        """Whether this process logs."""
        return self.process_index == 0

    @property
    def device(self) -> Any:
        """The torch.device of the run."""
        import torch

        from mathgrpo.models import resolve_device

        return torch.device(resolve_device("cpu" if self.use_cpu else "auto"))

    @property
    def n_gpu(self) -> int:
        """GPUs in use: one on CUDA, else none."""
        return int(self.device.type == "cuda")

    @property
    def train_batch_size(self) -> int:
        """The same as per_device_train_batch_size."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """The same as per_device_eval_batch_size."""
        return self.per_device_eval_batch_size

    @property
    def prompts_per_generation(self) -> int:
        """Prompts of one generation batch, in which TRL scales advantages by batch."""
        return (self.generation_batch_size or 0) // self.num_generations

    @property
    def prompts_per_rollout(self) -> int:
        """Prompts of one rollout: of all optimizer steps that share it, or of one step over several generations."""
        micro_steps = max(self.steps_per_generation or 1, self.gradient_accumulation_steps)
        return self.per_device_train_batch_size * self.world_size * micro_steps // self.num_generations

    @property
    def parts_per_rollout(self) -> int:
        """Optimizer steps that a rollout is divided between, each with completions of its own."""
        return max(1, (self.steps_per_generation or 1) // self.gradient_accumulation_steps)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the optimizer steps during which the learning rate rises: warmup_steps, else a share of all.

        Example:
            >>> from mathgrpo import GRPOConfig
            >>> GRPOConfig(warmup_ratio=0.1).get_warmup_steps(400)
            40
        """
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(num_training_steps * (self.warmup_steps or self.warmup_ratio or 0.0))

    def get_process_log_level(self) -> int:
        """Return the log level that scripts hand on to their loggers: that of transformers."""
        from transformers.utils import logging

        return int(logging.get_verbosity())
