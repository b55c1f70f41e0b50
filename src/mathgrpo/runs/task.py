"""What a run trains on: recipes and `GRPOTrainer` have a task each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mathgrpo.rollout import Engine
from mathgrpo.types import RolloutGroup
from mathgrpo.update import Lesson

Metrics = dict[str, float | None]


class Task(Protocol):
    """What a run trains on: it gives the prompts of a step and scores what was drawn.

    A step is one rollout with its update; `step` counts them from 0.
    Items are whatever it knows its prompts by. With several processes each draws and scores a share of them; all call
    `advantages`, `metrics` and `lesson` with everything.
    """

    seed: int

    @property
    def steps(self) -> int:
        """Steps of the whole run, as the user counts them."""

    def done(self, step: int) -> int:
        """Return how many steps are done after so many rollouts, as the user counts them."""

    def is_over(self, step: int) -> bool:
        """Return whether no step is left after so many."""

    def items(self, step: int) -> Sequence[Any]:
        """Return what a step draws completions for."""

    def draw(self, engine: Engine, items: Sequence[Any], step: int) -> list[RolloutGroup]:
        """Return one group of completions for each item, not rewarded yet."""

    def score(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with their rewards; each reward function is called once.

        Raises: UserError when one fails.
        """

    def advantages(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the rewarded groups of a step with their advantages."""

    def metrics(self, groups: Sequence[RolloutGroup]) -> Metrics:
        """Return what the completions of a step say."""

    def learning_rate(self, step: int) -> float | None:
        """Return the learning rate of a step; None where the optimizer's own scheduler sets it."""

    def lesson(self, groups: Sequence[RolloutGroup], step: int) -> Lesson:
        """Return how the groups are learnt from."""
