"""GRPOConfig: the settings of a training run under the names that TRL's GRPOConfig gives them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from dataclasses import dataclass
from typing import Any, TypeVar

from mathgrpo.errors import UserError
from mathgrpo.trl_api.argument_fields import NO_EFFECT, NOT_SERVED, RENAMED, ServedFields
from mathgrpo.trl_api.checks import check_config

C = TypeVar("C")


def _with_trl_fields(cls: type[C]) -> type[C]:
    """Give a dataclass to be the fields of TRL that have no work to do here: parsers and replace() know them then."""
    refused = {name: default for name, (default, _) in NOT_SERVED.items()}
    for name, default in (NO_EFFECT | refused).items():
        kind = type(default) if isinstance(default, bool | int | float | str) else str | None
        cls.__annotations__[name] = kind
        setattr(cls, name, dataclasses.field(default=default, repr=False))
    return cls


def _tells_new_names(cls: type[C]) -> type[C]:
    """Let a config name the new field where an old name is given."""
    own_init: Any = cls.__init__

    @functools.wraps(own_init)
    def init(self: Any, *args: Any, **given: Any) -> None:
        for name in RENAMED.keys() & given.keys():
            raise UserError(f"{name}={given[name]!r}: this field is called {RENAMED[name]}")
        own_init(self, *args, **given)

    cls.__init__ = init  # type: ignore[method-assign,assignment]
    return cls


def _require_default(name: str, value: Any) -> None:
    default, remedy = NOT_SERVED.get(name, (value, ""))
    unset = value is None or value == "" or value == [] or value == {}
    if value != default and not (unset and not default):
        raise UserError(f"{name}={value!r}: TRL has this field, it is not served here; {remedy}")


@_tells_new_names
@dataclass
@_with_trl_fields
class GRPOConfig(ServedFields):
    """Settings of a GRPOTrainer. Names, meaning and defaults are those of TRL 1.16 unless said otherwise.

    Every other field that TRL 1.16 or transformers 5.23 has is known too (see docs/from-trl.md): some change nothing
    here and take any value, the rest stop with what to use instead.

    Raises: UserError for values that cannot work, alone or together; TypeError for an unknown field.

    Example:
        >>> GRPOConfig("out", per_device_train_batch_size=8, gradient_accumulation_steps=2).generation_batch_size
        16
    """

    def __post_init__(self) -> None:
        for name in NOT_SERVED:
            _require_default(name, getattr(self, name))
        self.output_dir = "trainer_output" if self.output_dir is None else str(self.output_dir)
        for name in ("lr_scheduler_kwargs", "chat_template_kwargs", "model_init_kwargs", "generation_kwargs"):
            setattr(self, name, _as_dict(name, getattr(self, name)))
        for name in ("lr_scheduler_type", "optim", "logging_strategy", "eval_strategy", "save_strategy"):
            setattr(self, name, _plain(getattr(self, name)))
        if isinstance(self.scale_rewards, bool):
            self.scale_rewards = "group" if self.scale_rewards else "none"
        self.report_to = [] if self.report_to in (None, "none", ["none"]) else self.report_to
        self.report_to = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        self.eval_steps = self.logging_steps if self.eval_steps is None else self.eval_steps
        if self.vllm_importance_sampling_cap is not None:
            self.vllm_importance_sampling_clip_max = self.vllm_importance_sampling_cap
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        self._take_generation_kwargs()
        self._set_batch()
        check_config(self)

    def _set_batch(self) -> None:
        per_step, size = self.per_device_train_batch_size * self.world_size, self.generation_batch_size
        if self.steps_per_generation is None:
            fitting = self.gradient_accumulation_steps if size is None else max(1, size // max(1, per_step))
            self.steps_per_generation = fitting
        if size is None:
            self.generation_batch_size = per_step * self.steps_per_generation

    def _take_generation_kwargs(self) -> None:
        for name, value in dict(self.generation_kwargs or {}).items():  # type: ignore[arg-type]
            if name in ("top_p", "top_k", "min_p"):
                setattr(self, name, value)
            elif name != "do_sample" or value is not True:
                raise UserError(
                    f"generation_kwargs={{{name!r}: {value!r}}}: top_p, top_k, min_p and do_sample=True are served; "
                    "use the fields temperature and max_completion_length"
                )

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
        """Whether this process writes checkpoints; should_log: and logs."""
        return self.process_index == 0

    should_log = should_save

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

    def to_dict(self) -> dict[str, Any]:
        """Return every field, those without effect too, as JSON values; tokens are masked."""
        fields = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        masked = {"hub_token": "<HUB_TOKEN>"} if self.hub_token else {}
        values: dict[str, Any] = json.loads(json.dumps(fields | masked, default=str))
        return values

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """Return `to_dict` with values other than numbers and texts written as text, for trackers."""
        return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in self.to_dict().items()}


def _plain(value: Any) -> str:
    """Return an option as plain text: transformers' enumerations give their value."""
    return str(getattr(value, "value", value))


def _as_dict(name: str, value: Any) -> Any:
    """Return a dictionary that a command line may have written as JSON."""
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except ValueError as error:
        raise UserError(f"{name}={value!r}: is not JSON ({error}); write it as a dictionary") from error
    if not isinstance(read, dict):
        raise UserError(f"{name}={value!r}: is not a dictionary; write it as one")
    return read
