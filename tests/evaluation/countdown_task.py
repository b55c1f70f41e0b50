"""A Countdown recipe with a model that solves all or none of it, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config.load_recipe import validated
from mathgrpo.config.recipe import Recipe
from mathgrpo.formats import get_format
from mathgrpo.rollout.engine import Engine
from mathgrpo.types import Completion, Prompt, Sampling

ROWS = [
    {"question": f"Using [{a}, {b}, 7], make {made}.", "answer": str(made), "nums": [a, b, 7], "target": made}
    for a, b, made in (
        (44, 19, 56), (9, 6, 8), (30, 2, 25), (5, 50, 48), (8, 31, 32), (12, 21, 26), (3, 77, 73), (41, 18, 52),
        (6, 29, 28), (15, 13, 21),
    )
]  # fmt: skip
"""Problems whose gold is a number, where the answer is an equation's left side."""


def solution(row: dict[str, Any], right: bool = True) -> str:
    """Return a completion in the xml format that solves a row, or only names the target."""
    a, b, _ = row["nums"]
    return get_format("xml").write(
        f"{a} + {b} - 7 = {row['target']}", f"{a} + {b} - 7" if right else f"{row['target']}"
    )


class Solver(Engine):
    """An engine that solves the problems asked, or none, with the model's own log-probabilities.

    Attributes:
        right: whether it solves them.
    """

    name, reason, right = "solver", "", True

    def __init__(self, policy: Any, *_: Any, **__: Any) -> None:
        self._policy = policy

    def generate(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling) -> list[list[Completion]]:
        return [[self._completion(prompt)] * group_size for prompt in prompts]

    @torch.no_grad()
    def _completion(self, prompt: Prompt) -> Completion:
        asked = self._policy.tokenizer.decode(prompt.ids).replace(" ", "")
        text = next((solution(row, self.right) for row in ROWS if row["question"].replace(" ", "") in asked), None)
        assert text is not None, asked
        ids = [*self._policy.tokenizer(text)["input_ids"], self._policy.eos_ids[0]]
        logits = self._policy.model(torch.tensor([[*prompt.ids, *ids]])).logits[0, len(prompt.ids) - 1 : -1].float()
        drawn = torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
        return Completion(tuple(ids), tuple(drawn), "eos")


def countdown_recipe(folder: Path, **sections: dict[str, Any]) -> Recipe:
    """Return a recipe of two steps on a tiny model, its files written to a folder."""
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "countdown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data: dict[str, Any] = {
        "run": {"output_dir": str(folder / "runs"), "name": "countdown", "device": "cpu"},
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "problems": {"source": str(folder / "countdown.jsonl"), "heldout_size": 4},
        "rewards": {"countdown": 1.0, "format_parts": 0.1},
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 100},
        "training": {"steps": 2, "evaluate_every": 1},
        "evaluation": {"samples": 2},
    }
    return validated(Recipe, data | sections)
