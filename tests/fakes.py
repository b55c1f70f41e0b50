"""Small real things for the tests: models of a few thousand parameters and a character tokenizer. No mocks."""

from __future__ import annotations

import string
from typing import Any

CHARS = string.ascii_letters + string.digits + " \n.,:;!?<>/\\{}()[]+-*=_'\"$%#&|@^~`"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|unk|>")


def tiny_tokenizer(*, chat_template: bool = True) -> Any:
    """Return a character-level PreTrainedTokenizerFast: one token a character, digits single, <|end|> ends."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate([*SPECIAL, *CHARS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
    )
    if chat_template:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(architecture: str = "qwen2", *, seed: int = 0, **overrides: Any) -> Any:
    """Return a randomly initialised fp32 causal LM in eval mode, with weights so large that logits differ clearly.

    architecture: "qwen2", "qwen3", "llama" (all with grouped-query attention) or "gpt2".
    """
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

    torch.manual_seed(seed)
    vocab_size = len(SPECIAL) + len(CHARS)
    ends: dict[str, Any] = {"vocab_size": vocab_size, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    if architecture == "gpt2":
        config: Any = GPT2Config(n_embd=32, n_layer=2, n_head=2, **({"n_positions": 512} | ends | overrides))
    else:
        classes = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
        shape = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "initializer_range": 0.2,
        }
        config = classes[architecture](**(shape | ends | overrides))
    model = AutoModelForCausalLM.from_config(config)
    return model.float().eval()


def randomised(model: Any) -> Any:
    """The model with norms and biases that are not ones and zeros."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model
