"""A small trained run for the tests of publishing: made once a session, with and without an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config.load_recipe import validated
from mathgrpo.config.recipe import Recipe
from mathgrpo.training import train
from silent import Silent


def trained_run(folder: Path, *, lora: bool, quantization: str = "none", tied: bool = True) -> Path:
    """Return the folder of a run of three steps with a large learning rate: its weights have clearly moved."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_model(hidden_size=64, intermediate_size=128, head_dim=16, tie_word_embeddings=tied).save_pretrained(
        folder / "model"
    )
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 31)]
    (folder / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "my.py").write_text(
        "def vowels(completions, **columns):\n"
        "    return [sum(c in 'aeiou' for c in turn[0]['content']) / 4 for turn in completions]\n"
    )
    model: dict[str, Any] = {"path": str(folder / "model"), "dtype": "float32", "quantization": quantization}
    if lora:
        model["lora"] = {"r": 4, "alpha": 8}
    recipe = validated(
        Recipe,
        {
            "run": {"output_dir": str(folder / "runs"), "name": "small", "seed": 3, "device": "cpu"},
            "model": model,
            "problems": {"source": str(folder / "problems.jsonl"), "heldout_size": 8},
            "format": {"name": "boxed"},
            "rewards": {f"{folder}/my.py:vowels": 1.0},
            "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 8},
            "optimizer": {"learning_rate": 0.02},
            "training": {"steps": 3, "checkpoint_every": 1, "evaluate_every": 1},
        },
    )
    torch.manual_seed(0)
    return train(recipe, recipe_name="small", progress=Silent())
