"""Tiny random models of the families of causal language models that transformers has: how each is built here."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch

from fakes import CHARS, SPECIAL, randomised

VOCABULARY = len(SPECIAL) + len(CHARS)
WINDOW = 8
GENERIC: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "sliding_window": WINDOW, "hidden_dropout": 0.0,
    "is_decoder": True, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    # Other families' names for the same.
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "d_model": 32, "n_layers": 2, "n_heads": 4,
    "num_layers": 2, "num_heads": 4, "ffn_dim": 64, "init_std": 0.2, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64, "d_ff": 64, "rotary_dim": 4,
    # Attention of low rank; recurrence.
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_head_dim": 8, "linear_num_heads": 4, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
    "mamba_n_groups": 1, "mamba_chunk_size": 16, "mamba_d_ssm": 64, "mamba_num_heads": 8, "mamba_head_dim": 8,
    "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16, "autocast_kernel_dtype": "float32",
}  # fmt: skip
"""What every configuration is given that has a field of the name."""

MIX = ["sliding_attention", "full_attention"]
_EVERY_HEAD = {"num_key_value_heads": 4}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
           "image_size": 28, "patch_size": 14}  # fmt: skip
NEEDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite", "glm_moe_dsa",
         "kimi_linear", "longcat_flash", "minicpm3", "youtu"),
        _EVERY_HEAD,
    ),
    "axk1": {**_EVERY_HEAD, "n_group": 1, "topk_group": 1},
    "bamba": {"attn_layer_indices": [1]},
    "cohere2": {"layer_types": MIX},
    "cwm": {"bos_token_id": 2},
    "dots1": {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "exaone4": {"layer_types": MIX},
    "gemma3": {"text_config": {**GENERIC, "model_type": "gemma3_text", "layer_types": MIX}, "vision_config": _VISION,
               "mm_tokens_per_image": 4, "image_token_index": 99, "boi_token_index": 98, "eoi_token_index": 97},
    "gemma3_text": {"layer_types": MIX, "query_pre_attn_scalar": 8},
    "gemma3n_text": {"layer_types": MIX, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY,
                     "hidden_size_per_layer_input": 8, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": {"layer_types": MIX, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0,
                    "global_head_dim": 8},
    "gemma4_unified_text": {"layer_types": MIX, "num_kv_shared_layers": 0, "global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_oss": {"layer_types": MIX},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "full_attn_idxs": [1]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4_text": {"attention_chunk_size": WINDOW, "layer_types": ["chunked_attention", "full_attention"],
                    "no_rope_layers": [1, 0], "intermediate_size_mlp": 64},
    "mamba2": {"num_heads": 8, "state_size": 8},
    "modernbert-decoder": {"bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 3},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mlp", "moe"],
                   "moe_shared_expert_intermediate_size": 16},
    "olmo3": {"layer_types": MIX},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
               "n_mamba_heads": 8, "mamba_ngroups": 1},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What a kind needs beside, or shows more with."""

_ROPE = {"rope_theta": 10000.0, "original_max_position_embeddings": 16}
_FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, 3 heads on 1": ("llama", {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1,
                                      "head_dim": 16, "tie_word_embeddings": True}),
    "llama 3's rope": ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                                     "high_freq_factor": 4.0, **_ROPE}}),
    "yarn": ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **_ROPE}}),
    "dynamic ntk": ("llama", {"max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    "longrope": ("phi3", {"original_max_position_embeddings": 16, "rope_parameters": {
        "rope_type": "longrope", "factor": 32.0, **_ROPE, **_FACTORS}}),
    "qwen2, a window": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3, a window": ("qwen3", {"use_sliding_window": True, "max_window_layers": 1}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "falcon, biases by position": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "falcon h1, scaled": ("falcon_h1", {"lm_head_multiplier": 0.3}),
    "hyperclova, scaled": ("hyperclovax", {"logits_scaling": 3.0}),
    "recurrent gemma, capped": ("recurrent_gemma", {"logits_soft_cap": 1.0}),
    "granite, scaled": ("granite", {"embedding_multiplier": 2.0, "logits_scaling": 3.0, "residual_multiplier": 0.5,
                                    "attention_multiplier": 0.3}),
    "gemma 2, capped": ("gemma2", {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}),
}  # fmt: skip
"""Name -> (kind, settings): what a family's configurations can be beside the usual."""

_PARTS = "is text and pictures or sound in one; its text model is here as a kind of its own"
_TOWERS = "is text and pictures or sound in one, whose towers a few numbers do not make"
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        ("dots3_note", "gemma3n", "gemma4", "gemma4_unified", "llama4", "qwen3_5", "qwen3_5_moe", "qwen4_exp"), _PARTS
    ),
    **dict.fromkeys(
        ("emu3", "fuyu", "git", "got_ocr2", "mllama", "moss_transcribe_diarize", "phi4_multimodal", "musicgen",
         "musicgen_melody"),
        _TOWERS,
    ),
    "blt": "reads bytes in patches that a second model of billions of weights cuts",
    "cohere_compass_text": "its configuration alone makes no model",
    "dbrx": "its default rotary embedding is one that transformers 5 does not make",
    "gemma4_assistant": "drafts for Gemma 4 on that model's states",
    "gemma4_unified_assistant": "drafts for Gemma 4 on that model's states",
    "reformer": "reads texts of one length that its configuration fixes",
    "roc_bert": "13 million weights at least; it is BERT, which is here, over shapes and sounds of characters",
    "zamba": "transformers' own rule for its tied weights fails with few layers; Zamba 2 is here",
}  # fmt: skip
"""Kind -> why no tiny random model of it is tried."""

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "inkling_text", "megatron-bert",
         "modernbert-decoder", "rembert", "roberta", "roberta-prelayernorm", "roformer", "xlm-roberta",
         "xlm-roberta-xl"),
        "around the LM head",
    ),
    **dict.fromkeys(("cpmant", "prophetnet", "xlm", "xlnet"), "says else of a token in a whole text"),
    "xmod": "own forward pass fails",  # it asks for a language
}  # fmt: skip
"""Kind -> words of the one line that refuses it before step 0: encoders and models that do not read left to right."""


def config_of(kind: str, overrides: dict[str, Any]) -> Any:
    """Return the tiny configuration of a kind of model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made: Any = CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(made)} if dataclasses.is_dataclass(made) else set()
    known |= set(inspect.signature(made.__init__).parameters) | set(made.attribute_map)
    given = {name: value for name, value in GENERIC.items() if name in known}
    return made(**(given | NEEDS.get(kind, {}) | overrides))


def tiny_of(kind: str, overrides: dict[str, Any]) -> Any:
    """Return a random model of a kind in float32 and evaluation mode, with norms and biases of their own."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(config_of(kind, overrides)).float().eval())
