"""A run under way, and what hangs on its loop: hooks, called at the moments of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.distributed import SINGLE, World
from mathgrpo.evaluation.records import Evaluation
from mathgrpo.models import Policy
from mathgrpo.rollout import Engine
from mathgrpo.runs.interrupt import Interrupted, StopRequests
from mathgrpo.runs.speedometer import Speedometer, StepTimes
from mathgrpo.runs.task import Metrics, Task
from mathgrpo.types import RolloutGroup
from mathgrpo.update import Updater


@dataclass(slots=True)
class Run:
    """A run under way.

    Attributes:
        resume_with: what a reader types to go on with it.
        step: steps taken: rollouts, each with its update.
        token_budget: unique tokens of a micro-batch; less after memory has run out. None: the update's own default.
        recompute, compiled: how the update runs the layers, see `recomputed_layers` and `compiled_parts`.
        computing: what the model is put into while it samples and learns.
        notes: what a reader should know about how the run is computed.
    """

    task: Task
    policy: Policy
    engine: Engine
    updater: Updater
    optimizer: torch.optim.Optimizer
    speedometer: Speedometer
    stop: StopRequests
    world: World = SINGLE
    hooks: Sequence[Hook] = ()
    resume_with: str = ""
    step: int = 0
    token_budget: int | None = None
    recompute: bool = False
    compiled: bool = False
    computing: Callable[[], AbstractContextManager[None]] = nullcontext
    notes: list[str] = field(default_factory=list)

    def tell(self, moment: str, *what: Any) -> None:
        """Call the method of this name of every hook, in their order."""
        for hook in self.hooks:
            getattr(hook, moment)(self, *what)

    def stop_if_asked(self) -> None:
        """Raise Interrupted if anybody was asked to stop. Collective: all processes come here."""
        received = max(self.world.gather(self.stop.received))
        if received:
            raise Interrupted(received)

    def keep(self, groups: Sequence[RolloutGroup] = ()) -> list[str]:
        """Have the hooks save what they can before the run ends; return what is where."""
        return [place for hook in self.hooks if (place := hook.keep(self, groups))]

    def note(self, notes: Sequence[str]) -> None:
        """Tell the hooks what is new among these notes."""
        for note in notes:
            if note and note not in self.notes:
                self.notes.append(note)
                self.tell("noted", note)


@dataclass(frozen=True, slots=True)
class TakenStep:
    """A step that is done.

    Attributes:
        number: of the step, from 1 on.
        groups: all groups, with rewards and advantages.
        section: what it was learnt by.
        times, seconds: of its parts, and of the whole step.
    """

    number: int
    groups: Sequence[RolloutGroup]
    metrics: Metrics
    section: GrpoSection
    times: StepTimes
    seconds: float


class Hook:
    """What a run does beside its steps. Here every moment passes without effect.

    With several processes the hooks of each are called; one that writes or shows belongs to the main process only.
    """

    def begin(self, run: Run) -> None:
        """Before the first step of this process, also when the run is resumed."""

    def before_step(self, run: Run) -> None:
        """Between two steps, also before the first."""

    def stage(self, run: Run, what: str) -> None:
        """A part of a step begins: "rollout", "reward", "update"."""

    def counted(self, run: Run, what: str, done: int, total: int) -> None:
        """So many of all completions of an evaluation are made."""

    def after_step(self, run: Run, taken: TakenStep) -> None:
        """A step is done, and counted in run.step."""

    def evaluated(self, run: Run, name: str, evaluation: Evaluation, seconds: float) -> None:
        """An evaluation is done."""

    def noted(self, run: Run, note: str) -> None:
        """There is a new note."""

    def told(self, run: Run, text: str) -> None:
        """There is a line for the reader."""

    def keep(self, run: Run, groups: Sequence[RolloutGroup]) -> str:
        """Save what would be lost by an interrupt, or when these groups' step failed; return what is where, or ""."""
        return ""

    def end(self, run: Run) -> None:
        """All steps are taken."""

    def close(self, run: Run, status: str) -> None:
        """The run ends: "finished", "interrupted" or "failed"."""
