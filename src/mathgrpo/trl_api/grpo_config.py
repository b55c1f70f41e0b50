"""GRPOConfig: the settings of a training run under the names that TRL's GRPOConfig gives them."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from mathgrpo.errors import UserError
from mathgrpo.trl_api.argument_fields import NO_EFFECT, NOT_SERVED, RENAMED, RunFacts
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
class GRPOConfig(RunFacts):
    """Settings of a GRPOTrainer. Names, meaning and defaults are those of TRL 1.16 unless said otherwise.

    Every other field that TRL 1.16 or transformers 5.23 has is known too (see docs/from-trl.md): some change nothing
    here and take any value, the rest stop with what to use instead.

    Raises: UserError for values that cannot work, alone or together; TypeError for an unknown field.

    Example:
        >>> GRPOConfig("out", per_device_train_batch_size=8, gradient_accumulation_steps=2).generation_batch_size
        16
    """

    output_dir: str = "trainer_output"
    """Folder of checkpoints and completions."""
    run_name: str | None = None
    """Name of the run in trackers."""

    # Batch: sizes count completions, as in TRL.
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    """An optimizer step learns from per_device_train_batch_size * gradient_accumulation_steps completions."""
    steps_per_generation: int | None = None
    """Micro-steps between generations; a multiple of gradient_accumulation_steps divides a generation between several
    optimizer steps, a part of it gives one step several generations."""
    generation_batch_size: int | None = None
    """Completions of one generation; per_device_train_batch_size * steps_per_generation."""
    num_generations: int = 8
    """Completions of each prompt."""
    num_generations_eval: int | None = None
    num_iterations: int = 1
    """Optimizer steps on the same completions."""
    max_prompt_length: int | None = None
    """Tokens kept of a prompt, its last ones (gone in TRL 1.16, as in TRL 0.x here); None keeps all."""
    max_completion_length: int = 512

    num_train_epochs: float = 3.0
    max_steps: int = -1
    """Optimizer steps; above 0 it overrides num_train_epochs."""
    shuffle_dataset: bool = True
    seed: int = 42
    use_cpu: bool = False
    ddp_timeout: int = 1800
    """Seconds that one process waits for another."""
    bf16: bool | None = None
    """Precision of matrix products: True bfloat16, False float32; None: bfloat16 on CUDA, float32 on
    a CPU (TRL: bfloat16 on both). Weights that train are float32 always."""

    # Optimizer.
    learning_rate: float = 1e-6
    lr_scheduler_type: str = "linear"
    """Any schedule of `transformers.get_scheduler`, but not reduce_lr_on_plateau and greedy."""
    lr_scheduler_kwargs: dict[str, Any] | str | None = None
    warmup_steps: float = 0
    """Below 1: a share of all steps."""
    warmup_ratio: float | None = None
    """The same share under its old name (deprecated in transformers 5)."""
    optim: str = "adamw_torch_fused"
    """AdamW under any of its names; its states are float32 under the 8-bit names too."""
    weight_decay: float = 0.0
    """On weights of two dimensions and more."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """0: no clipping."""

    # GRPO.
    beta: float = 0.0
    epsilon: float = 0.2
    """From 1 on there is no lower bound, as a ratio is never below 0."""
    epsilon_high: float | None = None
    """For cispo the largest ratio itself; 5 in ScaleRL."""
    delta: float | None = None
    """Two-sided clip: the largest ratio of a negative advantage."""
    importance_sampling_level: str = "token"
    """token, or sequence (with loss_type grpo this is GSPO: one ratio for each completion)."""
    loss_type: str = "dapo"
    """dapo, grpo, dr_grpo, bnpo, cispo or sapo."""
    sapo_temperature_neg: float = 1.05
    sapo_temperature_pos: float = 1.0
    entropy_coef: float = 0.0
    """Weight of the policy's mean entropy, a bonus."""
    scale_rewards: str = "group"
    """group (True), none (False) or batch."""
    reward_weights: list[float] | None = None
    multi_objective_aggregation: str = "sum_then_normalize"
    mask_truncated_completions: bool = False

    # Sampling.
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = 0
    min_p: float | None = None
    generation_kwargs: dict[str, Any] | str | None = None
    """top_p, top_k and min_p here go before the fields of these names; do_sample may be True."""
    chat_template_kwargs: dict[str, Any] | str | None = None

    # vLLM, see mathgrpo.trl_api.script_setup.
    use_vllm: bool = False
    vllm_mode: str = "colocate"
    vllm_model_impl: str = "vllm"
    vllm_enable_sleep_mode: bool = False
    vllm_server_base_url: str | None = None
    vllm_server_host: str = "0.0.0.0"
    vllm_server_port: int = 8000
    vllm_server_timeout: float = 240.0
    vllm_gpu_memory_utilization: float = 0.3
    vllm_max_model_length: int | None = None
    vllm_tensor_parallel_size: int = 1
    vllm_importance_sampling_correction: bool = True
    vllm_importance_sampling_mode: str = "sequence_mask"
    vllm_importance_sampling_clip_max: float | None = 3.0
    vllm_importance_sampling_clip_min: float | None = None
    vllm_importance_sampling_cap: float | None = None
    """An older name of vllm_importance_sampling_clip_max."""

    # Model and data.
    model_init_kwargs: dict[str, Any] | str | None = None
    """Arguments of from_pretrained when the model is given by name; dtype there is the precision on disk only."""
    trust_remote_code: bool = False
    remove_unused_columns: bool | None = False
    """True: reward functions see prompts and completions only."""

    # Logs.
    logging_strategy: str = "steps"
    logging_steps: float = 10
    logging_first_step: bool = False
    disable_tqdm: bool | None = None
    report_to: list[str] | str | None = "none"
    project: str = "huggingface"
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: str | None = None
    log_completions: bool = False
    num_completions_to_print: int | None = None
    log_unique_prompts: bool = False

    # Evaluation.
    eval_strategy: str = "no"
    eval_steps: float | None = None
    eval_delay: float = 0
    eval_on_start: bool = False
    per_device_eval_batch_size: int = 8
    metric_for_best_model: str | None = None
    """Metric of evaluations that state.best_metric follows, as EarlyStoppingCallback needs."""
    greater_is_better: bool | None = None
    load_best_model_at_end: bool = False
    """Needs metric_for_best_model, and evaluations and checkpoints at the same steps."""

    # Checkpoints and hub.
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    save_only_model: bool = False
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool | None = None
    hub_token: str | None = dataclasses.field(default=None, repr=False)
    hub_strategy: str = "every_save"
    """every_save pushes each checkpoint's model, end the last one only."""
    hub_revision: str | None = None

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
