"""A small Qwen2 model from scratch: its tokenizer, its chat template, its random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mathgrpo.config.sft_recipe import NewModelSection
from mathgrpo.formats import Format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}"
    "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def whole_words(fmt: Format) -> list[str]:
    """Return what is one token each for a model of one format: its system prompt and its tags.

    A model this small reads the same instruction before every problem; as one token it costs next to nothing.
    """
    tags = re.findall(r"<[^<>]+>", fmt.write("x", "1"))
    return [fmt.system_prompt.strip(), *dict.fromkeys(tags)]


def train_tokenizer(texts: Iterable[str], whole: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer with single digits, trained on the texts.

    It is a Qwen2Tokenizer with a vocabulary of its own: AutoTokenizer loads that class for a Qwen2 model, whatever was
    saved, and would cut text in other places than any other class.

    Args:
        texts: what the model will read.
        whole: strings that are always one token, such as a format's tags.
        vocab_size: tokens in all, the 256 bytes and the marks included.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    marks = [PAD, END, SYSTEM, USER, ASSISTANT]
    added = [AddedToken(word, normalized=False) for word in whole]
    frame = Qwen2Tokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        special_tokens=marks,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    learner.train_from_iterator(texts, trainer)
    learnt: Any = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=merges,
        pad_token=PAD,
        eos_token=END,
        unk_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
    )
    tokenizer.add_tokens(added)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(shape: NewModelSection, tokenizer: PreTrainedTokenizerBase, seed: int) -> Any:
    """Return a randomly initialised fp32 Qwen2 model with tied embeddings for this tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    sizes = shape.model_dump() | {"vocab_size": len(tokenizer)}
    config = Qwen2Config(
        **sizes, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **ends
    )
    model = Qwen2ForCausalLM(config).float()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
