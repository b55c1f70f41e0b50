"""The training loop, in the data's order: problems, rollout, reward, advantage, update, evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from mathgrpo.config import Recipe
from mathgrpo.distributed import FollowMain, World, join_world
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluate, evaluation_names
from mathgrpo.evaluation.records import Evaluation
from mathgrpo.grpo import with_advantages
from mathgrpo.models import resolve_device
from mathgrpo.models.lora import learning_failure
from mathgrpo.optim.optimizer import set_learning_rate
from mathgrpo.optim.schedule import learning_rate_at
from mathgrpo.rollout.outside import close_engine, engine_metrics, keep_log, make_room
from mathgrpo.runs.checkpoint import TrainingState, checkpoints, load_optimizer, load_state
from mathgrpo.runs.interrupt import Interrupted, StopRequests
from mathgrpo.runs.metrics import rollout_metrics
from mathgrpo.runs.progress import Pace, Progress, SilentProgress, clock, make_progress
from mathgrpo.runs.record import RunRecord, open_record
from mathgrpo.runs.run_folder import choose_run_folder, create_run_folder
from mathgrpo.runs.run_info import start_info
from mathgrpo.runs.speedometer import Speedometer, StepTimes, build_speedometer, speed_metrics
from mathgrpo.runs.trackers import require_trackers
from mathgrpo.runs.trackers.tracker import TrackedRun
from mathgrpo.training.plan import make_plan, plan_lines
from mathgrpo.training.prepare import Prepared, prepare
from mathgrpo.training.resume import reopen, require_unfinished
from mathgrpo.training.step_order import counted_seed, problems_of_step, sampling_of_step
from mathgrpo.training.together import (
    evaluate_together,
    require_same_weights,
    reward_together,
    sample_together,
    speed_of_all,
    update_seed_purpose,
    world_lines,
)
from mathgrpo.types import Problem, RolloutGroup
from mathgrpo.update import NonFiniteError, UpdateStats, policy_update
from mathgrpo.update.layer_compile import compiled_parts
from mathgrpo.update.modes import recomputed_layers


@dataclass(slots=True)
class Run:
    """A run under way: what it was prepared with, where it writes, how far it is."""

    ready: Prepared
    speedometer: Speedometer
    record: RunRecord
    stop: StopRequests
    progress: Progress
    pace: Pace
    step: int
    token_budget: int
    recompute: bool
    compiled: bool


def train(
    recipe: Recipe,
    *,
    recipe_name: str,
    resume: Path | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Train by a recipe and return the run folder.

    resume: a run folder to go on with; `recipe` is then the one it keeps (see `resume.resumed_recipe`).
    Raises: UserError for whatever is wrong, mostly before step 0; Interrupted after Ctrl-C or SIGTERM, when the run
    can be resumed.
    """
    with join_world(resolve_device(recipe.run.device), recipe.run.peer_timeout_s) as world:
        shown = (progress or make_progress()) if world.is_main else SilentProgress()
        return _train(recipe, recipe_name, resume, command, shown, world)


def _train(
    recipe: Recipe, recipe_name: str, resume: Path | None, command: Sequence[str], progress: Progress, world: World
) -> Path:
    now = datetime.now().astimezone()
    folder = resume or world.from_main(lambda: choose_run_folder(recipe.run, recipe_name, now))
    saved = world.from_main(lambda: checkpoints(folder))
    state = load_state(saved[-1]) if saved else TrainingState(0, 0)
    if resume is not None:
        require_unfinished(folder, state.step, recipe.training.steps)
    require_trackers(recipe.training.trackers)
    ready = prepare(recipe, saved[-1] if saved else None, world)
    if saved:
        load_optimizer(saved[-1], ready.policy, ready.optimizer)
    require_same_weights(world, ready.optimizer, state.step)  # and nobody loads any more while the machine is measured
    speedometer = world.gather(build_speedometer(ready.policy, recipe) if world.is_main else None)[0]
    assert speedometer is not None
    info = start_info(ready.policy, folder, recipe_name, command, now, ready.notes)
    info |= {"engine": ready.engine.name, "processes": world.size} | speedometer.info
    plan = make_plan(ready)
    for line in (*plan_lines(ready, plan, folder), *world_lines(world, ready.policy.device), speedometer.line):
        progress.say(line)
    if world.is_main and resume is None:
        create_run_folder(folder, ready.recipe, info)
    elif world.is_main:
        info = reopen(folder, ready.recipe, info, state.step)
        progress.say(f"resuming after step {state.step} of {recipe.training.steps}")
    keep_log(ready.engine, folder)
    tracked = TrackedRun(
        recipe.training.tracker_project, folder, info["start_time"], recipe.model_dump(mode="json"), state.step
    )
    record = open_record(info, recipe.training.trackers, tracked, progress.say, writes=world.is_main)
    with StopRequests(world) as stop, progress:
        run = Run(
            ready, speedometer, record, stop, progress, Pace(), state.step,
            token_budget=state.token_budget or plan.token_budget, recompute=plan.recompute, compiled=plan.compiled,
        )  # fmt: skip
        world.leave_in_order = lambda: _end(run, "failed")
        _to_the_end(run)
    return folder


def _to_the_end(run: Run) -> None:
    """Run all that is left, and leave the folder in order however it ends."""
    try:
        if run.step == 0:
            _evaluate_all(run, "before")
        _all_steps(run)
        run.record.notes(list(filter(None, [learning_failure(run.ready.policy.model)])), run.progress.say)
        _evaluate_all(run, "after")
        for line in run.record.verdict():
            run.progress.say(line)
    except Interrupted as request:
        _save(run)
        _end(run, "interrupted")
        how = f"mathgrpo train --resume {run.record.folder}"
        message = f"stopped after step {run.step} of {_steps(run)}; resume with: {how}"
        raise Interrupted(request.signum, message) from None
    except BaseException:
        # The error itself matters more than a disk that is too full to note it down.
        with suppress(UserError):
            _end(run, "failed")
        raise
    _end(run, "finished")


def _end(run: Run, status: str) -> None:
    """Note how the run ended, in run.json and with its trackers."""
    run.record.end(status, run.step)
    close_engine(run.ready.engine)


def _all_steps(run: Run) -> None:
    """Take the steps that are left, with the checkpoints and evaluations between them."""
    training = run.ready.recipe.training
    while run.step < training.steps:
        if training.evaluate_every and run.step and run.step % training.evaluate_every == 0:
            _evaluate_all(run, f"step-{run.step}")
        run.stop.check()
        _one_step(run)
        if training.checkpoint_every and run.step % training.checkpoint_every == 0:
            _save(run)
    _save(run)


def _one_step(run: Run) -> None:
    """Take one step: problems, rollout, reward, advantage, update; then log it."""
    ready, recipe, world, started = run.ready, run.ready.recipe, run.ready.world, clock()
    problems = problems_of_step(ready.problems.train, run.step, recipe.rollout.prompts_per_step, recipe.run.seed)
    run.progress.doing("rollout")
    sampling = sampling_of_step(recipe, run.step)
    drawn = sample_together(world, ready.engine, ready.policy, problems, ready.fmt, recipe.rollout.group_size, sampling)
    rollout = engine_metrics(ready.engine)
    make_room(ready.engine)
    rolled_out = clock()
    run.progress.doing("reward")
    groups = _rewarded(run, drawn)
    rewarded = clock()
    run.stop.check()  # nothing has changed yet: the step can be abandoned and taken again after a resume
    run.progress.doing("update")
    learning_rate = learning_rate_at(run.step, recipe.training.steps, recipe.optimizer)
    stats = _update(run, groups, learning_rate)
    updated = clock()
    require_same_weights(world, ready.optimizer, run.step + 1)

    run.step, run.token_budget = run.step + 1, stats.token_budget
    times = StepTimes(rolled_out - started, rewarded - rolled_out, updated - rewarded)
    speed = speed_of_all(world, speed_metrics(run.speedometer, groups, recipe.grpo, times))
    metrics = {"step": run.step, **rollout_metrics(groups), **stats.metrics}
    metrics |= {"learning_rate": learning_rate, **speed, **rollout}
    run.record.step(metrics, groups[: recipe.training.log_groups])
    run.record.notes(stats.notes, run.progress.say)
    run.pace.step(clock() - started)
    run.progress.step(metrics, _steps(run), run.pace.seconds_left(_steps(run) - run.step, _evaluations_left(run)))


def _rewarded(run: Run, drawn: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """Return a step's groups with rewards and advantages; a reward that fails is told after the weights are saved."""
    try:
        rewarded = reward_together(run.ready.world, drawn, run.ready.fmt, run.ready.suite)
    except UserError as error:
        how = f"; mend it and go on with mathgrpo train --resume {run.record.folder}" if _save(run) else ""
        raise UserError(f"step {run.step + 1}: {error}{how}") from error
    return with_advantages(rewarded, run.ready.recipe.grpo.advantage_scale)


def _update(run: Run, groups: Sequence[RolloutGroup], learning_rate: float) -> UpdateStats:
    """Update the policy on a step's groups.

    Raises: UserError when loss or gradient is not finite, after saving the last good weights and the batch.
    """
    ready, recipe = run.ready, run.ready.recipe
    set_learning_rate(ready.optimizer, learning_rate)
    torch.manual_seed(counted_seed(recipe.run.seed, update_seed_purpose(ready.world), run.step))  # for dropout
    try:
        with recomputed_layers(ready.policy.model, run.recompute), compiled_parts(ready.policy.model, run.compiled):
            return policy_update(
                ready.policy, ready.optimizer, groups, recipe.grpo, temperature=recipe.rollout.temperature,
                max_new_tokens=recipe.rollout.max_new_tokens, max_grad_norm=recipe.optimizer.max_grad_norm,
                reference=ready.reference, token_budget=run.token_budget, world=ready.world,
            )  # fmt: skip
    except NonFiniteError as error:
        if not ready.world.is_main:
            raise FollowMain(str(error)) from error
        batch = run.record.failed_batch(run.step + 1, groups)
        saved = _save(run)
        raise UserError(
            f"step {run.step + 1}: {error}; the last good weights are in {saved}, the batch in {batch}; "
            f"lower optimizer.learning_rate={recipe.optimizer.learning_rate:g}"
        ) from error


def _evaluate_all(run: Run, name: str) -> None:
    """Evaluate the policy as it is on every held-out set, unless that is on disk already."""
    sets = run.ready.problems
    started, did = clock(), False
    there = run.ready.world.from_main(lambda: evaluation_names(run.record.folder))
    for full_name, problems in ((name, sets.heldout), (f"{name}-templates", sets.heldout_templates)):
        if problems and full_name not in there:
            _evaluate(run, full_name, problems)
            did = True
    if did:
        run.pace.evaluation(clock() - started)


def _evaluate(run: Run, name: str, problems: Sequence[Problem]) -> None:
    ready, section, what = run.ready, run.ready.recipe.evaluation, "evaluation " + name
    everything = len(problems) * (1 + section.samples)

    def on_progress(done: int, total: int) -> None:
        run.stop.heed()
        run.progress.doing(what, done * everything // total, everything)  # the other processes are about as far

    def of_share(share: Sequence[Problem]) -> Evaluation:
        on_progress(0, everything)
        return evaluate(
            ready.engine, ready.policy, share, ready.fmt, max_new_tokens=ready.evaluation_tokens,
            samples=section.samples, temperature=section.temperature, top_p=section.top_p,
            seed=ready.recipe.run.seed, on_progress=on_progress,
        )  # fmt: skip

    evaluation = evaluate_together(ready.world, run.stop, problems, of_share)
    run.record.evaluation(run.step, name, evaluation)
    summary = evaluation.summary()
    sampled = f", sampled {100 * summary['sampled/accuracy']:.1f} %" if "sampled/accuracy" in summary else ""
    run.progress.say(
        f"{what}: accuracy {100 * summary['accuracy']:.1f} %{sampled}, in format {100 * summary['format_rate']:.0f} %, "
        f"{summary['problems']:,} problems"
    )


def _save(run: Run) -> Path | None:
    """Return the checkpoint of the run as it is now; None before the first step, which needs none."""
    state, keep = TrainingState(run.step, run.token_budget), run.ready.recipe.training.keep_checkpoints
    return run.record.checkpoint(run.ready.policy, run.ready.optimizer, state, keep)


def _steps(run: Run) -> int:
    return run.ready.recipe.training.steps


def _evaluations_left(run: Run) -> int:
    every = run.ready.recipe.training.evaluate_every
    between = (_steps(run) - 1) // every - (run.step - 1) // every if every else 0
    return 1 + max(0, between)
