"""docs/algorithm.md: its arithmetic is right, its cell runs, and it names every loss and scale there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.grpo.advantages import group_advantages

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "algorithm.md").read_text(encoding="utf-8")


def test_the_group_computed_by_hand() -> None:
    text = PAGE.split("By hand: ", 1)[1].split("\n\n", 1)[0]
    rewards = [
        float(number) for number in re.findall(r"rewards ([\d.]+).*?, ([\d.]+).*?, ([\d.]+) and ([\d.]+) has", text)[0]
    ]
    stated = [
        float(n.replace("−", "-"))
        for n in re.findall(r"−?\d+\.\d+", text.split("advantages\nare")[1].split(". Had")[0])
    ]
    assert group_advantages(torch.tensor([rewards]))[0].tolist() == pytest.approx(stated, abs=0.005)
    assert f"mean {sum(rewards) / 4:g}" in text and f"= {torch.tensor(rewards).std():.3f}" in text
    assert group_advantages(torch.tensor([[1.1] * 4]))[0].tolist() == [0.0] * 4


def test_every_loss_and_scale_is_named() -> None:
    for field in ("loss", "advantage_scale"):
        annotation = GrpoSection.model_fields[field].annotation
        assert all(f"| `{name}` |" in PAGE for name in get_args(annotation))


def test_the_cell_runs_and_takes_a_step(generator: None) -> None:
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "algorithm.md", "exec"), names)  # noqa: S102  our own documentation
    assert names["stats"].metrics["grad_norm"] > 0 and names["stats"].metrics["weights_moved"] > 0.9
    assert len(names["groups"]) == 4 and all(len(group.completions) == 8 for group in names["groups"])
