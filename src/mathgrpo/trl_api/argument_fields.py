"""Every field that TRL's GRPOConfig knows, with its default there.

NO_EFFECT fields may have any value: they choose how the same result is computed, or name things there is one of.
NOT_SERVED fields would change the result, so anything but the default stops with what to use instead.
Those of ServedFields have work to do here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NO_EFFECT: dict[str, Any] = {
    **dict.fromkeys((
        "cache_implementation", "transformers_continuous_batching_config", "gradient_checkpointing_kwargs",
        "activation_checkpointing", "activation_checkpointing_kwargs", "liger_kernel_config",
        "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps", "tf32", "accelerator_config",
        "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "fsdp_config",
        "data_seed", "label_names", "eval_accumulation_steps", "logging_dir", "resume_from_checkpoint",
        "max_tool_calling_iterations",
    ), None),
    **dict.fromkeys((
        "use_transformers_continuous_batching", "use_transformers_paged", "use_cache", "use_liger_kernel",
        "torch_compile", "bf16_full_eval", "fp16_full_eval", "full_determinism", "dataloader_drop_last",
        "dataloader_persistent_workers", "save_on_each_node", "group_by_length", "prediction_loss_only",
        "eval_use_gather_object", "batch_eval_metrics", "ignore_data_skip",
        "restore_callback_states_from_checkpoint", "overwrite_output_dir", "do_train", "do_eval", "do_predict",
        "hub_always_push",
    ), False),
    **dict.fromkeys((
        "ds3_gather_for_generation", "gradient_checkpointing", "disable_dropout",
        "average_tokens_across_devices", "dataloader_pin_memory", "dataloader_in_order", "log_on_each_node",
        "eval_do_concat_batches", "save_safetensors", "logging_nan_inf_filter", "log_multimodal",
        "skip_memory_metrics",
    ), True),
    "pad_to_multiple_of": "auto", "vllm_dtype": "auto", "vllm_device": "auto", "vllm_group_port": 51216,
    "dataloader_num_workers": 0, "local_rank": -1, "label_smoothing_factor": 0.0, "entropy_coef_min": 0.0,
    "length_column_name": "length", "train_sampling_strategy": "random", "include_for_metrics": (),
    "include_num_input_tokens_seen": "no", "log_level": "passive", "log_level_replica": "warning", "debug": "",
    "vespo_k_pos": 2.0, "vespo_lambda_neg": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0,
    "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 512, "entropy_coef_max": 1.0, "entropy_coef_delta": 0.005,
    "entropy_target": 0.2,
}  # fmt: skip
"""Field -> its default: how completions or gradients are computed, how data is loaded and processes are joined, what a
GRPO batch does not have, and settings of parts that work otherwise here."""

_SEVERAL_DEVICES = "every process holds the whole model: start several with torchrun, and leave it out"

NOT_SERVED: dict[str, tuple[Any, str]] = {
    "vllm_structured_outputs_regex": (None, "leave it out and pay for the format in a reward function"),
    "vllm_guided_decoding_regex": (None, "leave it out and pay for the format in a reward function"),
    "repetition_penalty": (1.0, "leave it out: its samples are not the policy's; penalise repetition in a reward"),
    "off_policy_mask_threshold": (None, "leave it out: completions are never older than num_iterations updates"),
    "use_bias_correction_kl": (True, "leave it out: the KL term is always the corrected one, TRL's default"),
    "top_entropy_quantile": (1.0, "leave it out: every completion token counts"),
    "use_adaptive_entropy": (False, "use entropy_coef, which stays the same; epsilon_high=0.28 keeps entropy up too"),
    "sync_ref_model": (False, "leave it out: the reference stays the model before training; lower beta instead"),
    "router_aux_loss_coef": (None, "leave it out: mixture-of-experts models get no balancing loss here"),
    "cast_lm_head_to_fp32": (False, "use bf16=False to compute everything in float32"),
    "neftune_noise_alpha": (None, "leave it out: noise on embeddings would train another policy than samples"),
    "fp16": (False, "use bf16=True, or bf16=False for float32: float16 gradients would need loss scaling"),
    "optim_args": (None, "build the optimizer yourself and pass optimizers=(optimizer, None)"),
    "optim_target_modules": (None, "pass a peft_config to train a part of the model"),
    "auto_find_batch_size": (False, "leave it out: micro-batches are halved by themselves when memory runs out"),
    "enable_jit_checkpoint": (False, "use save_steps"),
    "fsdp": (None, _SEVERAL_DEVICES),
    "deepspeed": (None, _SEVERAL_DEVICES),
    "parallelism_config": (None, _SEVERAL_DEVICES),
    "log_completions_hub_repo": (None, "use log_completions=True; the tables are in output_dir/completions"),
}
"""Field -> (the one value that is allowed, what to use instead)."""

TRL_NAMES: dict[str, str] = {
    "model.path": "model",
    "model.lora": "a peft_config",
    "optimizer.learning_rate": "learning_rate",
    "rollout.max_new_tokens": "max_completion_length",
    "grpo.beta": "beta",
    "run.output_dir": "output_dir",
    "rollout.vllm": "use_vllm=True",
    "rollout.vllm=none": "use_vllm=False",
    "rollout.vllm.url": "vllm_server_base_url",
    'rollout.vllm.url=""': 'vllm_mode="colocate"',
    "rollout.vllm.mode=colocate": 'vllm_mode="colocate"',
    "rollout.vllm.mode=server": "MATHGRPO_VLLM_PYTHON=PYTHON",
    "rollout.vllm.arguments": "vllm_tensor_parallel_size, vllm_model_impl",
    "rollout.vllm.max_model_len": "vllm_max_model_length",
}
"""Setting of a recipe, or one with a value -> what it is called here, for errors that the rooms below raise."""

RENAMED: dict[str, str] = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "wandb_log_unique_prompts": "log_unique_prompts",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "kl_coef": "beta",
    "max_new_tokens": "max_completion_length",
    "vllm_max_model_len": "vllm_max_model_length",
}
"""Names of older versions -> the field that does the same."""


@dataclass
class ServedFields:
    """The fields that have work to do here, with TRL's names and defaults unless said otherwise."""

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
    hub_token: str | None = field(default=None, repr=False)
    hub_strategy: str = "every_save"
    """every_save pushes each checkpoint's model, end the last one only."""
    hub_revision: str | None = None
