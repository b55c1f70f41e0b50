"""What runs of the loop are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_model, tiny_tokenizer


@pytest.fixture
def material(tmp_path: Path) -> dict[str, Any]:
    """A tiny model, twelve problems, and a reward that a random model can earn more or less of: vowels."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 21)]
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "my.py").write_text(
        "def vowels(prompts, completions, **columns):\n"
        "    return [sum(c in 'aeiou' for c in turn[0]['content']) / 4 for turn in completions]\n"
    )
    return {
        "run": {"output_dir": str(tmp_path / "runs"), "name": "whole", "seed": 3, "device": "cpu"},
        "model": {"path": str(tmp_path / "model")},
        "problems": {"source": str(tmp_path / "problems.jsonl"), "heldout_size": 4},
        "format": {"name": "boxed"},
        "rewards": {f"{tmp_path}/my.py:vowels": 1.0},
        "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 8},
        "optimizer": {"learning_rate": 0.01, "schedule": "linear", "warmup_ratio": 0.25},
        "training": {"steps": 4, "checkpoint_every": 2, "evaluate_every": 2},
    }
