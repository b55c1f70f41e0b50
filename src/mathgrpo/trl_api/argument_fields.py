"""Every field that TRL's GRPOConfig knows and that has no work to do here, with its default there.

NO_EFFECT fields may have any value: they choose how the same result is computed, or name things there is one of.
NOT_SERVED fields would change the result, so anything but the default stops with what to use instead.
Fields that are served are the attributes of `mathgrpo.trl_api.grpo_config.GRPOConfig`.
"""

from __future__ import annotations

from typing import Any

NO_EFFECT: dict[str, Any] = {
    # How completions are computed: the rollout engine is chosen by the model, its draws do not depend on it.
    "cache_implementation": None,
    "use_transformers_continuous_batching": False,
    "transformers_continuous_batching_config": None,
    "use_transformers_paged": False,
    "use_cache": False,
    "ds3_gather_for_generation": True,
    "pad_to_multiple_of": "auto",
    # vLLM: connections are HTTP, the precision is the trainer's.
    "vllm_group_port": 51216,
    "vllm_dtype": "auto",
    "vllm_device": "auto",
    # How the gradient is computed: micro-batches bound the memory, and give the same gradient.
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": None,
    "activation_checkpointing": None,
    "activation_checkpointing_kwargs": None,
    "use_liger_kernel": False,
    "liger_kernel_config": None,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "torch_empty_cache_steps": None,
    "tf32": None,
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "disable_dropout": True,
    "full_determinism": False,
    # Processes are joined by torchrun's variables; no worker processes for the data.
    "average_tokens_across_devices": True,
    "accelerator_config": None,
    "dataloader_drop_last": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": True,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
    "dataloader_multiprocessing_context": None,
    "dataloader_in_order": True,
    "ddp_find_unused_parameters": None,
    "ddp_bucket_cap_mb": None,
    "ddp_broadcast_buffers": None,
    "ddp_static_graph": None,
    "ddp_backend": None,
    "ddp_timeout": 1800,
    "fsdp_config": None,
    "local_rank": -1,
    "log_on_each_node": True,
    "save_on_each_node": False,
    # What a GRPO batch does not have, and settings of parts that work otherwise here.
    "data_seed": None,
    "label_names": None,
    "label_smoothing_factor": 0.0,
    "length_column_name": "length",
    "train_sampling_strategy": "random",
    "group_by_length": False,
    "prediction_loss_only": False,
    "eval_do_concat_batches": True,
    "eval_use_gather_object": False,
    "eval_accumulation_steps": None,
    "include_for_metrics": (),
    "include_num_input_tokens_seen": "no",
    "batch_eval_metrics": False,
    "ignore_data_skip": False,
    "restore_callback_states_from_checkpoint": False,
    "save_safetensors": True,
    "overwrite_output_dir": False,
    "logging_nan_inf_filter": True,
    "logging_dir": None,
    "log_level": "passive",
    "log_level_replica": "warning",
    "log_multimodal": True,
    "skip_memory_metrics": True,
    "debug": "",
    "do_train": False,
    "do_eval": False,
    "do_predict": False,
    "resume_from_checkpoint": None,
    "hub_always_push": False,
    "max_tool_calling_iterations": None,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
    "ref_model_mixup_alpha": 0.6,
    "ref_model_sync_steps": 512,
    "entropy_coef_min": 0.0,
    "entropy_coef_max": 1.0,
    "entropy_coef_delta": 0.005,
    "entropy_target": 0.2,
}

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
    "rollout.max_rows": "per_device_train_batch_size",
    "rollout.max_new_tokens": "max_completion_length",
    "grpo.beta": "beta",
    "rollout.engine=vllm": "use_vllm=True",
    "rollout.engine=auto": "use_vllm=False",
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
