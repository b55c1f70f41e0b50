"""Folders with the names of hub models and data sets, so that scripts find them in their working folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mathgrpo.models import starter_path

_CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train.jsonl
  - split: test
    path: main/test.jsonl
---
"""


def add_model(folder: Path, architecture: str) -> None:
    """Write a randomly initialised model of a hundred thousand parameters, with the starter's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, Qwen2Config

    tokenizer = AutoTokenizer.from_pretrained(starter_path())
    ends = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    if architecture == "gpt2":
        tokenizer.chat_template = None
        config: Any = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=512, **ends)
    else:
        config = Qwen2Config(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.2, **ends,
        )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def add_gsm8k(folder: Path, count: int = 64) -> None:
    """Write problems in GSM8K's layout and notation, with its configuration "main"."""
    rows = []
    for i in range(count):
        total = 2 * i + 3
        rows.append(
            {
                "question": f"Ann has {i} shells and finds {i + 3} more. How many shells does she have?",
                "answer": f"She has {i} + {i + 3} = <<{i}+{i + 3}={total}>>{total} shells.\n#### {total}",
            }
        )
    (folder / "main").mkdir(parents=True)
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "main" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
