"""Whole steps, 64 × 8 × (200 + 200): rollout, reward, update and optimizer, and where the device waits for the host."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from torch.profiler import record_function

from benchmarks.gpu.case import Case, Numbers, Setup, WrongNumbers
from benchmarks.gpu.kernels_by_class import SPAN, busy_us, device_spans, profiled
from benchmarks.gpu.synthetic import random_model, random_policy, random_prompts, spread_advantages
from benchmarks.gpu.timing import seconds_once
from mathgrpo.config.recipe import GrpoSection, OptimizerSection
from mathgrpo.formats import get_format
from mathgrpo.grpo import with_advantages
from mathgrpo.optim.optimizer import build_optimizer
from mathgrpo.rewards import build_suite
from mathgrpo.rollout import build_engine, completion_text, reward_groups
from mathgrpo.types import Problem, RolloutGroup, Sampling
from mathgrpo.update import policy_update

STEPS = 5


def cases(setup: Setup) -> Iterator[Case]:
    """Yield five steps, then one under the profiler."""
    ready = cache(lambda: _Step(setup))  # made by the first case that is run, in its time
    size = "64 × 8 × (200 + 200) tokens"
    yield Case("five steps", lambda: ready().measure(), size=size, limit_s=50)
    yield Case("where the device waits", lambda: ready().waits(), size=size, limit_s=40)


class _Step:
    """A run's parts, put together as its loop does."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._policy = random_policy(setup, random_model(setup))
        self._engine = build_engine(self._policy)
        self._optimizer = build_optimizer(self._policy.model, OptimizerSection(), self._policy.compute_dtype)
        self._format = get_format("xml")
        self._suite = build_suite({"correct": 1.0, "format": 0.1}, self._format, {}, self._new_tokens)
        count, length = setup.pick((64, 200), (2, 8))
        self._prompts = random_prompts(count, length, self._policy.model.config.vocab_size)
        self._index = 0

    @property
    def _new_tokens(self) -> int:
        return int(self._setup.pick(200, 6))

    def measure(self) -> Numbers:
        """Measure steps behind two that are not timed: the engine's graphs are captured in the second."""
        rows = [self._parts() for _ in range(2 + self._setup.pick(STEPS, 2))][2:]
        medians = {f"{name}_s": statistics.median(row[name] for row in rows) for name in rows[0] if name != "metrics"}
        medians["step_s"] = statistics.median(
            sum(v for k, v in r.items() if k not in ("optimizer", "metrics")) for r in rows
        )
        metrics: dict[str, float] = rows[-1]["metrics"]
        if not all(value == value and abs(value) != float("inf") for value in metrics.values()):
            raise WrongNumbers("a metric is not a finite number", {**medians, "metrics": metrics})
        sampled = len(self._prompts) * self._group_size * self._new_tokens
        return {"step_s": medians.pop("step_s"), **medians, "rollout_tokens_per_s": sampled / medians["rollout_s"],
                "engine": self._engine.reason, "metrics": metrics}  # fmt: skip

    def waits(self) -> Numbers:
        """Measure the time in each part of a step during which nothing runs on the device."""
        for _ in range(2):
            self._parts()
        every = profiled(self._parts, self._setup.device)
        spans = device_spans(every)
        parts = [span for span in every if span.name.startswith(SPAN) and not span.on_device]
        numbers: Numbers = {}
        for part in parts:
            name, busy = part.name.removeprefix(SPAN), busy_us(spans, part.start, part.end)
            numbers |= {f"{name}_s": (part.end - part.start) / 1e6,
                        f"{name}_idle_s": (part.end - part.start - busy) / 1e6}  # fmt: skip
        low, high = parts[0].start, max(part.end for part in parts)
        idle = (high - low - busy_us(spans, low, high)) / 1e6
        return {"idle_s": idle, "profiled_step_s": (high - low) / 1e6, **numbers, "kernels": len(spans)}

    @property
    def _group_size(self) -> int:
        return int(self._setup.pick(8, 2))

    def _parts(self) -> dict[str, Any]:
        """Take one step; return the seconds of its parts and the update's metrics."""
        groups: list[RolloutGroup] = []
        seconds: dict[str, Any] = {}

        def timed(name: str, work: Callable[[], Any]) -> None:
            with record_function(SPAN + name):
                seconds[name] = seconds_once(work, self._setup.device)

        def roll_out() -> None:
            sampling = Sampling(self._new_tokens, seed=self._index)
            groups.extend(self._groups(self._engine.generate(self._prompts, self._group_size, sampling)))

        def reward() -> None:
            rewarded = with_advantages(reward_groups(groups, self._format, self._suite), "none")
            # Random weights earn nothing, and groups without advantages would be skipped.
            groups[:] = [replace(g, advantages=spread_advantages(len(g.completions))) for g in rewarded]

        timed("rollout", roll_out)
        timed("reward", reward)
        optimizer_s: list[float] = []
        timed("update", lambda: seconds.update(metrics=self._update(groups, optimizer_s)))
        self._index += 1
        return {**seconds, "optimizer": optimizer_s[0]}

    def _groups(self, drawn: list[list[Any]]) -> list[RolloutGroup]:
        return [
            RolloutGroup(
                Problem(f"How many are {i} and {i}?", str(2 * i)), prompt, tuple(completions),
                tuple(completion_text(self._policy, completion) for completion in completions),
            )
            for i, (prompt, completions) in enumerate(zip(self._prompts, drawn, strict=True))
        ]  # fmt: skip

    def _update(self, groups: list[RolloutGroup], optimizer_s: list[float]) -> dict[str, float]:
        optimizer, take_step = self._optimizer, type(self._optimizer).step

        def timed_step() -> None:
            optimizer_s.append(seconds_once(lambda: take_step(optimizer), self._setup.device))

        optimizer.step = timed_step  # type: ignore[method-assign, assignment]
        stats = policy_update(
            self._policy, optimizer, groups, GrpoSection(), temperature=1.0, max_new_tokens=self._new_tokens,
            max_grad_norm=1.0, token_budget=self._setup.pick(32768, 8192),
        )  # fmt: skip
        return stats.metrics
