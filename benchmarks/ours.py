"""This project as a contestant: the calls that its training loop makes, in their order."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from benchmarks.channel import Control
from benchmarks.gradient import compare_gradient
from benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from benchmarks.settings import Settings
from benchmarks.task import FORCED_END, recipe_of


def run(control: Control, settings: Settings, folder: Path, options: dict[str, Any]) -> None:
    """Prepare, then take one step for each command.

    Options are fields of `Machinery`. Commands: step (its number), gradient (the path of TRL's batch),
    evaluate.
    """
    from mathgrpo.config.machinery import Machinery
    from mathgrpo.training.prepare import prepare

    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    imported = resident_bytes()
    started = time.perf_counter()
    machinery = Machinery(**{"skip_zero_advantage": False, "token_budget": settings.micro_tokens} | options)
    ready = forced(prepare(recipe_of(settings, folder), machinery=machinery), settings)
    contestant = Ours(ready, settings)
    reset_peak(settings.device)
    control.reply(
        ready=True, imported_bytes=imported, prepare_s=time.perf_counter() - started, note=ready.engine.reason
    )
    while (command := control.next()) is not None:
        if command["do"] == "gradient":
            control.reply(**compare_gradient(ready, Path(command["path"])))
            reset_peak(settings.device)
        elif command["do"] == "evaluate":
            control.reply(accuracy=heldout_accuracy(ready.engine, ready.policy, ready.problems.heldout, settings))
        else:
            control.reply(**contestant.step(command["step"]))


def forced(ready: Any, settings: Settings) -> Any:
    """Return the prepared run with an end id that is never sampled, in forced mode; as it is otherwise."""
    from mathgrpo.rollout import build_engine

    if settings.mode == "natural":
        return ready
    policy = dataclasses.replace(ready.policy, eos_ids=(FORCED_END,))
    return dataclasses.replace(ready, policy=policy, engine=build_engine(policy))


class Ours:
    """A prepared run, one step at a time."""

    def __init__(self, ready: Any, settings: Settings) -> None:
        from mathgrpo.runs.speedometer import build_speedometer
        from mathgrpo.update import Updater

        self._ready, self._settings = ready, settings
        self._updater = Updater(ready.policy, ready.optimizer, machinery=ready.machinery)
        self._speedometer = build_speedometer(ready.policy)

    def step(self, index: int) -> dict[str, Any]:
        """Return the measurements of one whole step: problems, rollout, reward, advantage, update, metrics."""
        from mathgrpo.grpo import with_advantages
        from mathgrpo.rollout.groups import reward_groups, sample_groups
        from mathgrpo.runs.speedometer import StepTimes, speed_metrics
        from mathgrpo.training.loop import set_learning_rate
        from mathgrpo.training.recipe_task import counted_seed, learning_rate_at, problems_of_step, rollout_metrics
        from mathgrpo.types import Sampling
        from mathgrpo.update import Lesson

        ready, recipe, settings = self._ready, self._ready.recipe, self._settings
        started = clock(settings.device)
        problems = problems_of_step(ready.problems.train, index, settings.prompts_per_step, settings.seed)
        sampling = Sampling(settings.max_new_tokens, seed=counted_seed(settings.seed, "rollout", index))
        groups = sample_groups(ready.engine, ready.policy, problems, ready.fmt, settings.group_size, sampling)
        rolled_out = clock(settings.device)
        groups = reward_groups(groups, ready.fmt, ready.suite)
        rewarded = clock(settings.device)
        groups = with_advantages(groups, recipe.grpo.advantage_scale)
        set_learning_rate(ready.optimizer, learning_rate_at(index, settings.num_steps, recipe.optimizer))
        lesson = Lesson(recipe.grpo, 1.0, settings.max_new_tokens, recipe.optimizer.max_grad_norm)
        stats = self._updater.update(groups, lesson)
        times = StepTimes(rolled_out - started, rewarded - rolled_out, clock(settings.device) - rewarded)
        rollout_metrics(groups)
        speed = speed_metrics(
            self._speedometer, groups, recipe.grpo, times, skip_zero_advantage=ready.machinery.skip_zero_advantage
        )
        ended = clock(settings.device)
        lengths = [len(c.ids) for group in groups for c in group.completions]
        prompt_tokens = sum(len(group.prompt.ids) for group in groups)
        difference = stats.metrics.get("sampling/logprob_difference/mean")
        return {
            "step": index, "seconds": ended - started, "rollout_s": rolled_out - started,
            "reward_s": rewarded - rolled_out, "tokens": sum(lengths), "longest": max(lengths),
            "prompt_tokens": prompt_tokens, "peak_bytes": peak_bytes(settings.device),
            "resident_bytes": resident_bytes(), "logprob_difference": difference, "speed": speed,
        }  # fmt: skip


def heldout_accuracy(engine: Any, policy: Any, problems: Any, settings: Settings) -> float:
    """Return the share of held-out problems that a greedy completion solves, by this project's own evaluation."""
    from benchmarks.task import FORMAT
    from mathgrpo.evaluation import evaluate
    from mathgrpo.formats import get_format

    evaluation = evaluate(engine, policy, problems, get_format(FORMAT), max_new_tokens=settings.max_new_tokens)
    return float(evaluation.summary()["accuracy"])


def clock(device: str) -> float:
    """Return the time in seconds once the device has done all it was told."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()
