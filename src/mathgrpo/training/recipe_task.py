"""A recipe as the loop's task: its problems, format, rewards and schedule."""

from __future__ import annotations

from collections.abc import Sequence

from mathgrpo.grpo import with_advantages
from mathgrpo.optim.schedule import learning_rate_at
from mathgrpo.rollout import Engine
from mathgrpo.rollout.groups import reward_groups, sample_groups
from mathgrpo.runs.hook import Lesson, Metrics
from mathgrpo.runs.metrics import rollout_metrics
from mathgrpo.training.prepare import Prepared
from mathgrpo.training.step_order import problems_of_step, sampling_of_step
from mathgrpo.types import Problem, RolloutGroup


class RecipeTask:
    """What a prepared recipe trains on, see `mathgrpo.runs.hook.Task`."""

    def __init__(self, ready: Prepared) -> None:
        self._ready, self._recipe = ready, ready.recipe
        self.seed, self.steps = ready.recipe.run.seed, ready.recipe.training.steps

    def done(self, step: int) -> int:
        """Return the steps done: a step is a rollout."""
        return step

    def is_over(self, step: int) -> bool:
        """Return whether all steps are taken."""
        return step >= self.steps

    def items(self, step: int) -> list[Problem]:
        """Return the problems of a step."""
        return problems_of_step(self._ready.problems.train, step, self._recipe.rollout.prompts_per_step, self.seed)

    def draw(self, engine: Engine, items: Sequence[Problem], step: int) -> list[RolloutGroup]:
        """Return completions of the problems. The noise is counted: the same whichever process draws them."""
        ready, size = self._ready, self._recipe.rollout.group_size
        return sample_groups(engine, ready.policy, items, ready.fmt, size, sampling_of_step(self._recipe, step))

    def score(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with rewards and verdicts."""
        return reward_groups(groups, self._ready.fmt, self._ready.suite)

    def advantages(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with advantages."""
        return with_advantages(groups, self._recipe.grpo.advantage_scale, self._ready.suite.weights)

    def metrics(self, groups: Sequence[RolloutGroup]) -> Metrics:
        """Return rewards, accuracy, form and length."""
        return {**rollout_metrics(groups)}

    def learning_rate(self, step: int) -> float:
        """Return the schedule's rate."""
        return learning_rate_at(step, self.steps, self._recipe.optimizer)

    def lesson(self, groups: Sequence[RolloutGroup], step: int) -> Lesson:
        """Return the recipe's settings of the update."""
        rollout = self._recipe.rollout
        return Lesson(
            self._recipe.grpo, rollout.temperature, rollout.max_new_tokens, self._recipe.optimizer.max_grad_norm
        )
