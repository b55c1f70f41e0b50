"""Learning rates against hand-computed values and against transformers' own schedulers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_scheduler

from mathgrpo.config.recipe import OptimizerSection
from mathgrpo.training.recipe_task import learning_rate_at


def rates(steps: int, **fields: object) -> list[float]:
    section = OptimizerSection(learning_rate=0.8, **fields)  # type: ignore[arg-type]
    return [learning_rate_at(step, steps, section) for step in range(steps)]


def test_constant_rises_and_stays() -> None:
    assert rates(4) == [0.8] * 4
    # 5 steps, 40 % warm-up = 2 steps: 0/2, 1/2, then 1
    assert rates(5, warmup_ratio=0.4) == [0.0, 0.4, 0.8, 0.8, 0.8]


def test_linear_falls_to_zero_after_the_last_step() -> None:
    # no warm-up: (4 - s) / 4
    assert rates(4, schedule="linear") == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert learning_rate_at(4, 4, OptimizerSection(schedule="linear")) == 0.0


def test_cosine_is_half_way_in_the_middle() -> None:
    # 1/2 (1 + cos(pi s / 4)): 1, 0.8536, 0.5, 0.1464
    assert rates(4, schedule="cosine") == pytest.approx([0.8, 0.8 * 0.8535534, 0.4, 0.8 * 0.1464466])


@pytest.mark.parametrize(
    ("schedule", "name"), [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]
)
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.05, 0.31])
def test_equal_to_transformers(schedule: str, name: str, warmup_ratio: float) -> None:
    steps = 37
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=math.ceil(warmup_ratio * steps), num_training_steps=steps
    )
    theirs = []
    for _ in range(steps):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(steps, schedule=schedule, warmup_ratio=warmup_ratio) == pytest.approx(theirs)
