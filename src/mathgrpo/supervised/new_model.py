"""A small Qwen2 model from scratch: its tokenizer, its chat template, its random weights."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mathgrpo.cache import cache_folder
from mathgrpo.config.sft_recipe import NewModelSection
from mathgrpo.errors import UserError
from mathgrpo.formats import Format
from mathgrpo.formats.chat import encode_prompt
from mathgrpo.models.locate import locate_model
from mathgrpo.supervised.sft_steps import collate, completion_loss
from mathgrpo.types import Problem

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


def build_model(shape: NewModelSection, tokenizer: PreTrainedTokenizerBase, seed: int, std: float = 0.02) -> Any:
    """Return a randomly initialised fp32 Qwen2 model with tied embeddings for this tokenizer.

    std: standard deviation of the random weights.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        **shape.model_dump() | {"vocab_size": len(tokenizer)}, **_ends(tokenizer), initializer_range=std,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    return _ending(Qwen2ForCausalLM(config), tokenizer)


def _ends(tokenizer: Any) -> dict[str, Any]:
    return {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}


def _ending(model: Any, tokenizer: Any) -> Any:
    """Return the model in float32, generating as the tokenizer ends."""
    for name, value in _ends(tokenizer).items():
        setattr(model.generation_config, name, value)
    return model.float()


Architecture = Literal["qwen2", "gpt2"]

ARCHITECTURES: dict[str, Architecture] = {"gpt2": "gpt2", "gpt-2": "gpt2"}
"""Part of a model's name, in lower case, or its config's model_type -> what stands in for it. All others: qwen2."""
SHAPE = NewModelSection(
    hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
INITIAL_STD = 0.1
"""Of the random weights: so narrow a model learns several times as fast from these as from the usual 0.02."""
STEPS, LEARNING_RATE = 14, 4e-3
"""Of the supervised steps before the run: how many, each on all problems, and how fast."""
_REVISION = 1
"""Raised with every change to what is made here, so that an old model in the cache is not used."""


def architecture_of(path: str) -> Architecture:
    """Return what stands in for a recipe's model: by the config of a model or run folder, else by the name.

    Example:
        >>> architecture_of("vicgalle/gpt2-open-instruct-v1"), architecture_of("Qwen/Qwen2.5-3B-Instruct")
        ('gpt2', 'qwen2')
    """
    folder, name = Path(path).expanduser(), path.lower()
    config = (Path(locate_model(path)) if folder.is_dir() else folder) / "config.json"
    if config.is_file():
        try:
            name = str(json.loads(config.read_text(encoding="utf-8")).get("model_type", ""))
        except ValueError as error:
            raise UserError(f"model.path={path}: its config.json is not JSON ({error}); download it again") from error
    return next((found for part, found in ARCHITECTURES.items() if part in name), "qwen2")


def tiny_model(architecture: Architecture, fmt: Format, problems: Sequence[Problem]) -> Path:
    """Return the folder of a small model that writes a format, made once and kept in the cache.

    Its tokenizer is the starter's, with the format's tags as tokens of their own. A GPT-2 has no chat template.
    """
    folder = cache_folder() / "tiny" / f"{architecture}-{fmt.name}-r{_REVISION}"
    if not (folder / "config.json").is_file():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True, exist_ok=True)
        try:
            _make(architecture, fmt, problems, partial)
            with suppress(OSError):  # another process was first
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _make(architecture: Architecture, fmt: Format, problems: Sequence[Problem], folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = _tokenizer(architecture, fmt, folder)
        model = _model(architecture, tokenizer)
        _cold_start(model, tokenizer, fmt, problems)
    model.save_pretrained(folder)


def _tokenizer(architecture: Architecture, fmt: Format, folder: Path) -> Any:
    """Return the tokenizer as it will be loaded with the model: AutoTokenizer may choose a class of its own."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(locate_model("starter"))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in whole_words(fmt) if word])
    if architecture == "gpt2":
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": architecture}), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def _model(architecture: Architecture, tokenizer: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    if architecture == "qwen2":
        return build_model(SHAPE, tokenizer, 0, INITIAL_STD)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=SHAPE.hidden_size, n_layer=SHAPE.num_hidden_layers,
        n_head=SHAPE.num_attention_heads, n_positions=SHAPE.max_position_embeddings, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, initializer_range=INITIAL_STD, **_ends(tokenizer),
    )  # fmt: skip
    return _ending(GPT2LMHeadModel(config), tokenizer)


def _cold_start(model: Any, tokenizer: Any, fmt: Format, problems: Sequence[Problem]) -> None:
    """Train on worked solutions, the learning rate falling to 0 in a straight line."""
    rows = []
    for problem in problems:
        completion = tokenizer(fmt.write(problem.solution or "", problem.answer), add_special_tokens=False)
        prompt = list(encode_prompt(tokenizer, problem, fmt).ids)
        rows.append((prompt, [*completion["input_ids"], tokenizer.eos_token_id]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    batch = collate(rows, tokenizer.pad_token_id)
    model.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(completion_loss(model, batch, 0.0))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
