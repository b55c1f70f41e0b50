"""Every field that TRL's GRPOConfig knows and that has no work to do here, with its default there.

NO_EFFECT fields may have any value: they choose how the same result is computed, or name things there is one of.
NOT_SERVED fields would change the result, so anything but the default stops with what to use instead.
Fields that are served are the attributes of `mathgrpo.trl_api.grpo_config.GRPOConfig`.
"""

from __future__ import annotations

import math
import os
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
