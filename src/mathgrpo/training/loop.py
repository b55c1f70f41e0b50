"""The training loop, in the data's order: prompts, rollout, reward, advantage, update.

Recipes and `GRPOTrainer` drive it with a task each. Whatever else a run does hangs on it as hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from time import perf_counter

import torch

from mathgrpo.distributed import FollowMain
from mathgrpo.errors import UserError, named
from mathgrpo.runs.hook import Run, TakenStep
from mathgrpo.runs.interrupt import Interrupted
from mathgrpo.runs.speedometer import StepTimes
from mathgrpo.training.recipe_task import counted_seed
from mathgrpo.training.sampler_stop import fall_back_or_stop
from mathgrpo.training.together import require_same_weights, with_speed
from mathgrpo.types import RolloutGroup
from mathgrpo.update import Lesson, NonFiniteError, SamplerError, UpdateStats
from mathgrpo.update.layer_modes import compiled_parts, recomputed_layers


def run_to_the_end(run: Run) -> None:
    """Take all steps that are left, and have the hooks leave everything in order however that ends.

    Raises: UserError for a step that fails; Interrupted after Ctrl-C or SIGTERM, when the run can be resumed.
    """
    try:
        run.tell("begin")
        while not run.task.is_over(run.step):
            run.tell("before_step")
            run.stop_if_asked()
            run.tell("after_step", with_speed(run, take_step(run)))
        run.tell("end")
    except Interrupted as request:
        run.keep()
        run.tell("close", "interrupted")
        message = f"stopped after step {run.task.done(run.step)} of {run.task.steps}; resume with: {run.resume_with}"
        raise Interrupted(request.signum, message) from None
    except BaseException:
        # The error itself matters more than a disk that is too full to note it down.
        with suppress(UserError):
            run.tell("close", "failed")
        raise
    run.tell("close", "finished")


def take_step(run: Run) -> TakenStep:
    """Take one step: prompts, rollout, reward, advantage, update; return what it was like."""
    task, world, started = run.task, run.world, perf_counter()
    items = task.items(run.step)
    run.tell("stage", "rollout")
    with run.computing():
        drawn = world.gather_shares(task.draw(run.engine, world.share(items), run.step))
    outside = dict(run.engine.metrics)
    run.engine.make_room()
    rolled_out = perf_counter()
    run.tell("stage", "reward")
    groups = _rewarded(run, drawn)
    rewarded = perf_counter()
    run.stop_if_asked()  # nothing has changed yet: the step can be abandoned and taken again after a resume
    run.tell("stage", "update")
    lesson, rate = task.lesson(groups, run.step), task.learning_rate(run.step)
    try:
        stats = _learn(run, groups, lesson, rate)
    except SamplerError as error:
        fall_back_or_stop(run, groups, error)
        return take_step(run)
    updated = perf_counter()
    if world.size > 1:
        require_same_weights(world, run.optimizer, run.step + 1)

    run.step, run.token_budget = run.step + 1, stats.token_budget
    times = StepTimes(rolled_out - started, rewarded - rolled_out, updated - rewarded)
    metrics = {"step": run.step, **task.metrics(groups), **stats.metrics}
    metrics |= ({} if rate is None else {"learning_rate": rate}) | outside
    run.note((*stats.notes, *run.engine.notes))
    return TakenStep(run.step, groups, metrics, lesson.section, times, perf_counter() - started)


def _rewarded(run: Run, drawn: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """Return a step's groups with rewards and advantages; a reward that fails is told after the weights are saved."""
    try:
        rewarded = run.world.gather_shares(run.task.score(run.world.share(drawn)))
    except UserError as error:
        how = f"; mend it and go on with {run.resume_with}" if run.step and run.keep() else ""
        raise UserError(f"step {run.task.done(run.step) + 1}: {error}{how}") from error
    return run.task.advantages(rewarded)


def _learn(run: Run, groups: Sequence[RolloutGroup], lesson: Lesson, rate: float | None) -> UpdateStats:
    """Update the policy on a step's groups.

    Raises: UserError when loss or gradient is not finite, after saving the last good weights and the batch.
    """
    if rate is not None:
        set_learning_rate(run.optimizer, rate)
    # Dropout differs between processes.
    purpose = "update" if run.world.is_main else f"update of process {run.world.rank}"
    model, seed = run.policy.model, counted_seed(run.task.seed, purpose, run.step)
    devices = [torch.cuda.current_device()] if run.policy.device.startswith("cuda") else []
    try:
        with (
            torch.random.fork_rng(devices=devices),  # so that reward functions keep random numbers of their own
            run.computing(), ExitStack() as modes,
        ):  # fmt: skip
            if run.recompute:
                modes.enter_context(recomputed_layers(model))
            if run.compiled:
                modes.enter_context(compiled_parts(model))
            torch.manual_seed(seed)  # for adapter dropout
            return run.updater.update(groups, lesson, token_budget=run.token_budget)
    except NonFiniteError as error:
        if not run.world.is_main:
            raise FollowMain(str(error)) from error
        kept = "".join(f"; {place}" for place in run.keep(groups))
        remedy = f"lower {named('optimizer.learning_rate')}, which is {run.optimizer.param_groups[0]['lr']:g} now"
        raise UserError(f"step {run.task.done(run.step) + 1}: {error}{kept}; {remedy}") from error


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of the optimizer this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
