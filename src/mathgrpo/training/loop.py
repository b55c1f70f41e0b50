"""The training loop, in the data's order: problems, rollout, reward, advantage, update, evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mathgrpo.config import Recipe
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluate, evaluation_names, write_evaluation, write_verdict
from mathgrpo.grpo import NonFiniteError, UpdateStats, policy_update, with_advantages
from mathgrpo.grpo.compiled import compiled_parts
from mathgrpo.grpo.modes import recomputed_layers
from mathgrpo.models.lora import learning_failure
from mathgrpo.rollout.groups import reward_groups, sample_groups
from mathgrpo.training.batches import counted_seed, problems_of_step
from mathgrpo.training.checkpoint import TrainingState, checkpoints, load_optimizer, load_state, save_checkpoint
from mathgrpo.training.interrupt import Interrupted, StopRequests
from mathgrpo.training.metrics import batch_lines, rollout_lines, rollout_metrics
from mathgrpo.training.optimizer import set_learning_rate
from mathgrpo.training.plan import make_plan, plan_lines
from mathgrpo.training.prepare import Prepared, prepare
from mathgrpo.training.progress import Pace, Progress, clock, make_progress
from mathgrpo.training.resume import reopen, require_unfinished
from mathgrpo.training.run_folder import (
    METRICS,
    ROLLOUTS,
    append_lines,
    choose_run_folder,
    create_run_folder,
    write_info,
)
from mathgrpo.training.run_info import finished_info, start_info, verdict_text
from mathgrpo.training.schedule import learning_rate_at
from mathgrpo.training.speed import Speedometer, StepTimes, build_speedometer, speed_metrics
from mathgrpo.training.trackers import Trackers, open_trackers, require_trackers
from mathgrpo.training.trackers.tracker import TrackedRun
from mathgrpo.types import Problem, RolloutGroup, Sampling


@dataclass(slots=True)
class Run:
    """A run under way: what it was prepared with, where it writes, how far it is."""

    ready: Prepared
    speedometer: Speedometer
    trackers: Trackers
    folder: Path
    info: dict[str, Any]
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
    now = datetime.now().astimezone()
    folder = resume if resume is not None else choose_run_folder(recipe.run, recipe_name, now)
    saved = checkpoints(folder)
    state = load_state(saved[-1]) if saved else TrainingState(0, 0)
    if resume is not None:
        require_unfinished(folder, state.step, recipe.training.steps)
    require_trackers(recipe.training.trackers)
    ready = prepare(recipe, saved[-1] if saved else None)
    if saved:
        load_optimizer(saved[-1], ready.policy, ready.optimizer)
    progress = progress or make_progress()
    info = start_info(ready.policy, folder, recipe_name, command, now, ready.notes) | {"engine": ready.engine.name}
    speedometer = build_speedometer(ready.policy, recipe)
    info |= speedometer.info
    plan = make_plan(ready)
    for line in (*plan_lines(ready, plan, folder), speedometer.line):
        progress.say(line)
    if resume is None:
        create_run_folder(folder, ready.recipe, info)
    else:
        info = reopen(folder, ready.recipe, info, state.step)
        progress.say(f"resuming after step {state.step} of {recipe.training.steps}")
    tracked = TrackedRun(
        recipe.training.tracker_project, folder, info["start_time"], recipe.model_dump(mode="json"), state.step
    )
    trackers = open_trackers(recipe.training.trackers, tracked, progress.say)
    with StopRequests() as stop, progress:
        run = Run(
            ready, speedometer, trackers, folder, info, stop, progress, Pace(), state.step,
            token_budget=state.token_budget or plan.token_budget, recompute=plan.recompute, compiled=plan.compiled,
        )  # fmt: skip
        _to_the_end(run)
    return folder


def plan_lines_of(recipe: Recipe, recipe_name: str, *, resume: Path | None = None) -> list[str]:
    """Return the plan of a run for a reader, after every check that comes before step 0. Nothing is written.

    Raises: UserError for whatever is wrong.
    """
    folder = resume if resume is not None else choose_run_folder(recipe.run, recipe_name, datetime.now().astimezone())
    saved = checkpoints(folder)
    require_trackers(recipe.training.trackers)
    ready = prepare(recipe, saved[-1] if saved else None)
    return plan_lines(ready, make_plan(ready), folder)


def _to_the_end(run: Run) -> None:
    """Run all that is left, and leave the folder in order however it ends."""
    try:
        if run.step == 0:
            _evaluate_all(run, "before")
        _all_steps(run)
        _note(run, list(filter(None, [learning_failure(run.ready.policy.model)])))
        _evaluate_all(run, "after")
        _show_verdict(run)
    except Interrupted as request:
        _save(run)
        _end(run, "interrupted")
        message = f"stopped after step {run.step} of {_steps(run)}; resume with: mathgrpo train --resume {run.folder}"
        raise Interrupted(request.signum, message) from None
    except BaseException:
        # The error itself matters more than a disk that is too full to note it down.
        with suppress(UserError):
            _end(run, "failed")
        raise
    _end(run, "finished")


def _end(run: Run, status: str) -> None:
    """Note how the run ended, in run.json and with its trackers."""
    write_info(run.folder, finished_info(run.info, status, run.step))
    run.trackers.close(status)


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
    ready, recipe, started = run.ready, run.ready.recipe, clock()
    problems = problems_of_step(ready.problems.train, run.step, recipe.rollout.prompts_per_step, recipe.run.seed)
    run.progress.doing("rollout")
    drawn = sample_groups(
        ready.engine, ready.policy, problems, ready.fmt, recipe.rollout.group_size, _sampling(recipe, run.step)
    )
    rolled_out = clock()
    run.progress.doing("reward")
    groups = with_advantages(reward_groups(drawn, ready.fmt, ready.suite), recipe.grpo.advantage_scale)
    rewarded = clock()
    run.stop.check()  # nothing has changed yet: the step can be abandoned and taken again after a resume
    run.progress.doing("update")
    learning_rate = learning_rate_at(run.step, recipe.training.steps, recipe.optimizer)
    stats = _update(run, groups, learning_rate)
    updated = clock()

    run.step, run.token_budget = run.step + 1, stats.token_budget
    times = StepTimes(rolled_out - started, rewarded - rolled_out, updated - rewarded)
    speed = speed_metrics(run.speedometer, groups, recipe.grpo, times)
    metrics = {"step": run.step, **rollout_metrics(groups, ready.fmt), **stats.metrics}
    metrics |= {"learning_rate": learning_rate, **speed}
    append_lines(run.folder / METRICS, [metrics])
    lines = rollout_lines(run.step, groups[: recipe.training.log_groups])
    append_lines(run.folder / ROLLOUTS, lines)
    run.trackers.step(metrics, lines)
    _note(run, stats.notes)
    run.pace.step(clock() - started)
    run.progress.step(metrics, _steps(run), run.pace.seconds_left(_steps(run) - run.step, _evaluations_left(run)))


def _sampling(recipe: Recipe, step: int) -> Sampling:
    """Return how a step's completions are drawn. The noise of a problem met again in a later epoch is new."""
    rollout = recipe.rollout
    return Sampling(
        max_new_tokens=rollout.max_new_tokens, temperature=rollout.temperature, top_p=rollout.top_p,
        top_k=rollout.top_k, min_p=rollout.min_p, seed=counted_seed(recipe.run.seed, "rollout", step),
    )  # fmt: skip


def _update(run: Run, groups: Sequence[RolloutGroup], learning_rate: float) -> UpdateStats:
    """Update the policy on a step's groups.

    Raises: UserError when loss or gradient is not finite, after saving the last good weights and the batch.
    """
    ready, recipe = run.ready, run.ready.recipe
    set_learning_rate(ready.optimizer, learning_rate)
    torch.manual_seed(counted_seed(recipe.run.seed, "update", run.step))  # adapter dropout is all that draws from it
    try:
        with recomputed_layers(ready.policy.model, run.recompute), compiled_parts(ready.policy.model, run.compiled):
            return policy_update(
                ready.policy, ready.optimizer, groups, recipe.grpo, temperature=recipe.rollout.temperature,
                max_new_tokens=recipe.rollout.max_new_tokens, max_grad_norm=recipe.optimizer.max_grad_norm,
                reference=ready.reference, token_budget=run.token_budget,
            )  # fmt: skip
    except NonFiniteError as error:
        batch = run.folder / f"failed-step-{run.step + 1}.jsonl"
        append_lines(batch, batch_lines(run.step + 1, groups))
        saved = _save(run)
        raise UserError(
            f"step {run.step + 1}: {error}; the last good weights are in {saved}, the batch in {batch}; "
            f"lower optimizer.learning_rate={recipe.optimizer.learning_rate:g}"
        ) from error


def _evaluate_all(run: Run, name: str) -> None:
    """Evaluate the policy as it is on every held-out set, unless that is on disk already."""
    sets = run.ready.problems
    started, did = clock(), False
    for full_name, problems in ((name, sets.heldout), (f"{name}-templates", sets.heldout_templates)):
        if problems and full_name not in evaluation_names(run.folder):
            _evaluate(run, full_name, problems)
            did = True
    if did:
        run.pace.evaluation(clock() - started)


def _evaluate(run: Run, name: str, problems: Sequence[Problem]) -> None:
    ready, section = run.ready, run.ready.recipe.evaluation
    what = "evaluation " + name

    def on_progress(done: int, total: int) -> None:
        run.stop.check()
        run.progress.doing(what, done, total)

    on_progress(0, len(problems) * (1 + section.samples))
    evaluation = evaluate(
        ready.engine, ready.policy, problems, ready.fmt, max_new_tokens=ready.evaluation_tokens,
        samples=section.samples, temperature=section.temperature, top_p=section.top_p,
        seed=ready.recipe.run.seed, on_progress=on_progress,
    )  # fmt: skip
    write_evaluation(evaluation, run.folder, name)
    summary = evaluation.summary()
    run.trackers.evaluation(run.step, name, summary)
    sampled = f", sampled {100 * summary['sampled/accuracy']:.1f} %" if "sampled/accuracy" in summary else ""
    run.progress.say(
        f"{what}: accuracy {100 * summary['accuracy']:.1f} %{sampled}, in format {100 * summary['format_rate']:.0f} %, "
        f"{summary['problems']:,} problems"
    )


def _show_verdict(run: Run) -> None:
    for line in verdict_text(write_verdict(run.folder)):
        run.progress.say(line)


def _save(run: Run) -> Path | None:
    """Return the checkpoint of the run as it is now; None before the first step, which needs none."""
    if run.step == 0:
        return None
    state = TrainingState(run.step, run.token_budget)
    keep = run.ready.recipe.training.keep_checkpoints
    return save_checkpoint(run.folder, run.ready.policy, run.ready.optimizer, state, keep)


def _note(run: Run, notes: Sequence[str]) -> None:
    """Put new notes into run.json and on the screen."""
    new = [note for note in notes if note not in run.info["notes"]]
    if new:
        run.info["notes"] = [*run.info["notes"], *new]
        write_info(run.folder, run.info)
        for note in new:
            run.progress.say(f"note: {note}")


def _steps(run: Run) -> int:
    return run.ready.recipe.training.steps


def _evaluations_left(run: Run) -> int:
    every = run.ready.recipe.training.evaluate_every
    between = (_steps(run) - 1) // every - (run.step - 1) // every if every else 0
    return 1 + max(0, between)
