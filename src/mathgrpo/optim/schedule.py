"""The learning rate over the steps of a run."""

from __future__ import annotations

import math

from mathgrpo.config.recipe import OptimizerSection


def learning_rate_at(step: int, steps: int, section: OptimizerSection) -> float:
    """Return the learning rate of a step: a straight rise during warm-up, then constant, linear or cosine to 0.

    step: steps taken before this one, so the first is 0. With warm-up its rate is 0, as in the source.
    Source: transformers' get_constant/linear/cosine_schedule_with_warmup, warm-up steps rounded up.

    Example:
        >>> section = OptimizerSection(learning_rate=0.5, schedule="linear", warmup_ratio=0.2)
        >>> [learning_rate_at(step, 10, section) for step in (0, 1, 2, 6)]
        [0.0, 0.25, 0.5, 0.25]
    """
    warmup_steps = math.ceil(section.warmup_ratio * steps)
    if step < warmup_steps:
        return section.learning_rate * step / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if section.schedule == "constant":
        return section.learning_rate
    if section.schedule == "linear":
        return section.learning_rate * max(0.0, 1.0 - progress)
    return section.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
