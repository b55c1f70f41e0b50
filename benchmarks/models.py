"""Models with random weights, built from their shapes: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError

STARTER_WORDS = 1933
QWEN_WORDS = 151_936

SHAPES: dict[str, dict[str, int]] = {
    # name: hidden size, MLP size, layers, heads, key/value heads, vocabulary
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": STARTER_WORDS},
    "1m": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
           "num_key_value_heads": 2, "vocab_size": STARTER_WORDS},
    "starter-shape": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 6,
                      "num_key_value_heads": 3, "vocab_size": STARTER_WORDS},
    "10m": {"hidden_size": 320, "intermediate_size": 960, "num_hidden_layers": 8, "num_attention_heads": 10,
            "num_key_value_heads": 5, "vocab_size": STARTER_WORDS},
    "30m": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 8,
            "num_key_value_heads": 4, "vocab_size": STARTER_WORDS},
    "100m": {"hidden_size": 768, "intermediate_size": 2560, "num_hidden_layers": 13, "num_attention_heads": 12,
             "num_key_value_heads": 6, "vocab_size": STARTER_WORDS},
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                     "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": QWEN_WORDS},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                     "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": QWEN_WORDS},
    "qwen2.5-3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
                   "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": QWEN_WORDS},
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                   "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064,
                   "tie_word_embeddings": False},
}  # fmt: skip
"""Shapes of Qwen2 models; the Qwen2.5 ones as in the config.json of Qwen/Qwen2.5-0.5B, -1.5B, -3B and -7B. Embeddings
are tied unless a shape says otherwise."""


def model_config(name: str, **overrides: int) -> Any:
    """Return the Qwen2 config of a shape.

    Raises: UserError for a shape that is not there.
    """
    from transformers import Qwen2Config

    if name not in SHAPES:
        raise UserError(f"model={name}: no such shape; there are: starter, {', '.join(SHAPES)}")
    theta = 1e6 if name.startswith("qwen") else 1e4
    sizes: dict[str, Any] = {"tie_word_embeddings": True} | SHAPES[name] | overrides
    return Qwen2Config(
        **sizes, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": theta}, eos_token_id=1, pad_token_id=0,
        bos_token_id=None,
    )  # fmt: skip


def save_random_model(name: str, folder: Path, seed: int = 0, device: str = "cpu") -> None:
    """Write a model of a shape with the starter's tokenizer to a folder.

    Weights are drawn on the device, which is left empty again, and saved in bfloat16, which both sides load as float32
    masters. Rows of the vocabulary beyond the tokenizer's stand for tokens it cannot decode; they decode to nothing.
    """
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    from mathgrpo.models.locate import locate_model

    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = Qwen2ForCausalLM(model_config(name))
    model.to(torch.bfloat16)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate_model("starter")).save_pretrained(folder)
    if device != "cpu":
        del model
        torch.cuda.empty_cache()


def count_parameters(folder: str) -> int:
    """Return the parameters of a saved model, tied ones once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(AutoConfig.from_pretrained(folder))
    return sum(p.numel() for p in model.parameters())
