"""One tiny adapter of every kind PEFT has, and LoRA in every way that changes what a layer computes."""

from __future__ import annotations

import copy
from typing import Any

import torch

from fakes import tiny_model

QVD = ["q_proj", "v_proj", "down_proj"]
NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]

Kind = tuple[str, dict[str, Any]]

LORA: dict[str, dict[str, Any]] = {
    "plain": {},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora_embedding": {"use_dora": True, "target_modules": [*QVD, "embed_tokens"]},
    "pissa": {"init_lora_weights": "pissa"},
    "head": {"target_modules": [*QVD, "lm_head"]},
    "embedding": {"target_modules": [*QVD, "embed_tokens"]},
    "embedding_alone": {"target_modules": ["embed_tokens"]},
    "embedding_and_head": {"target_modules": ["embed_tokens", "lm_head"]},
    "tied_on_purpose": {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    "saved_embedding_and_head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved_embedding": {"modules_to_save": ["embed_tokens"]},
    "saved_head": {"modules_to_save": ["lm_head"]},
    "saved_norm": {"modules_to_save": ["norm"]},
    "saved_norms": {"modules_to_save": ["input_layernorm", "post_attention_layernorm"]},
    "saved_mlp": {"modules_to_save": ["mlp"], "target_modules": ["q_proj"]},
    "bias": {"bias": "all"},
    "bias_of_adapted": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "tokens": {"trainable_token_indices": [3, 4, 5, 10, 11, 12]},
    "one_layer": {"layers_to_transform": [1]},
    "ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}},
    "dropout": {"lora_dropout": 0.2},
    "parameters": {"target_parameters": ["q_proj.weight"], "target_modules": ["v_proj"]},
}
"""Name -> what LoraConfig gets beside r=4 on q_proj, v_proj and down_proj."""

OTHERS: dict[str, Kind] = {
    "ADALORA": ("AdaLoraConfig", {"init_r": 4, "target_r": 2, "target_modules": QVD, "total_step": 10}),
    "ADAPTION_PROMPT": ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 2}),
    "BEFT": ("BeftConfig", {"target_modules": ["q_proj", "v_proj"]}),
    "BOFT": ("BOFTConfig", {"target_modules": ["q_proj"], "boft_block_size": 4}),
    "C3A": ("C3AConfig", {"target_modules": QVD, "block_size": 8}),
    "DEFT": ("DeftConfig", {"target_modules": QVD, "r": 4}),
    "DELORA": ("DeloraConfig", {"target_modules": QVD, "r": 4}),
    "FOURIERFT": ("FourierFTConfig", {"target_modules": QVD, "n_frequency": 20}),
    "FROD": ("FrodConfig", {"target_modules": ["q_proj"]}),
    "GLORA": ("GloraConfig", {"target_modules": QVD, "r": 4}),
    "GRALORA": ("GraloraConfig", {"target_modules": QVD, "r": 4, "gralora_k": 2}),
    "HIRA": ("HiraConfig", {"target_modules": QVD, "r": 4}),
    "HRA": ("HRAConfig", {"target_modules": QVD, "r": 4}),
    "IA3": ("IA3Config", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "LN_TUNING": ("LNTuningConfig", {"target_modules": NORMS}),
    "LOHA": ("LoHaConfig", {"target_modules": QVD, "r": 4}),
    "LOKR": ("LoKrConfig", {"target_modules": QVD, "r": 4}),
    "MISS": ("MissConfig", {"target_modules": QVD, "r": 4}),
    "OFT": ("OFTConfig", {"target_modules": ["q_proj"], "r": 0, "oft_block_size": 8}),
    "OSF": ("OSFConfig", {"target_modules": ["q_proj", "v_proj"], "effective_rank": 4}),
    "PEANUT": ("PeanutConfig", {"target_modules": QVD, "r": 4}),
    "PSOFT": ("PsoftConfig", {"target_modules": ["q_proj"], "r": 4}),
    "PVERA": ("PveraConfig", {"target_modules": ["o_proj"], "r": 4}),
    "RANDLORA": ("RandLoraConfig", {"target_modules": ["q_proj", "o_proj"], "r": 4}),
    "ROAD": ("RoadConfig", {"target_modules": QVD, "group_size": 8}),
    "SHIRA": ("ShiraConfig", {"target_modules": QVD, "r": 4}),
    "SUPERTUNING": ("SupertuningConfig", {"target_modules": QVD}),
    "TINYLORA": ("TinyLoraConfig", {"target_modules": QVD, "r": 2}),
    "TRAINABLE_TOKENS": ("TrainableTokensConfig", {"token_indices": [3, 4, 5, 10], "target_modules": ["embed_tokens"]}),
    "UNILORA": ("UniLoraConfig", {"target_modules": QVD, "r": 4}),
    "VBLORA": ("VBLoRAConfig", {"target_modules": QVD, "r": 4, "vector_length": 8, "num_vectors": 8}),
    "VERA": ("VeraConfig", {"target_modules": ["o_proj"], "r": 4}),
    "WAVEFT": ("WaveFTConfig", {"target_modules": ["q_proj", "o_proj"], "n_frequency": 20}),
}
"""PEFT's name of a kind -> its configuration class and arguments."""

REFUSED: dict[str, Kind] = {
    "ALORA": ("LoraConfig", {"r": 4, "target_modules": QVD, "alora_invocation_tokens": [7, 8]}),
    "CARTRIDGE": ("CartridgeConfig", {"num_virtual_tokens": 4}),
    "CPT": ("CPTConfig", {"cpt_token_ids": [7, 8], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]}),
    "LILY": ("LilyConfig", {"target_modules": QVD, "r": 4}),
    "MULTITASK_PROMPT_TUNING": ("MultitaskPromptTuningConfig", {"num_virtual_tokens": 4, "num_tasks": 2}),
    "P_TUNING": ("PromptEncoderConfig", {"num_virtual_tokens": 4}),
    "POLY": ("PolyConfig", {"target_modules": QVD, "r": 4, "n_tasks": 2}),
    "PREFIX_TUNING": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "PROMPT_TUNING": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "SHADOW": ("ShadowConfig", {}),
}
"""Kinds that compute outside the layers of the model, or need to be told something with every text."""

LEFT_OUT = {
    "ADAMSS": "needs scikit-learn",
    "LORA": "has a table of its own",
    "XLORA": "mixes saved adapters: a test of its own",
}
"""Kinds of PEFT without an entry above, and why."""

KINDS: dict[str, Kind] = {
    **{f"LORA/{name}": ("LoraConfig", {"r": 4, "target_modules": QVD, **more}) for name, more in LORA.items()},
    **OTHERS,
}
"""All that is served."""


def with_adapter(kind: Kind, *, tied: bool = True, architecture: str = "qwen2") -> Any:
    """Return a tiny model with a fresh adapter, in evaluation mode."""
    import peft

    model = tiny_model(architecture, tie_word_embeddings=tied)
    config = getattr(peft, kind[0])(task_type="CAUSAL_LM", **copy.deepcopy(kind[1]))
    return peft.get_peft_model(model, config).eval()


@torch.no_grad()
def move(model: Any) -> None:
    """Move every weight that trains: a fresh adapter is the identity."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
