"""From a recipe to a run folder: what is prepared, where it is written, and the loop with its hooks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mathgrpo.config import Recipe
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.variables import kept_checkpoints, logged_groups, peer_timeout_s, tracker_project
from mathgrpo.distributed import join_world
from mathgrpo.errors import UserError
from mathgrpo.models import resolve_device
from mathgrpo.rollout.engine import close_engine, keep_log
from mathgrpo.runs.checkpoint import TrainingState, checkpoints, load_optimizer, load_state
from mathgrpo.runs.display import Display
from mathgrpo.runs.hook import Hook, Run
from mathgrpo.runs.interrupt import StopRequests
from mathgrpo.runs.progress import Progress, SilentProgress, make_progress
from mathgrpo.runs.record import Checkpoints, Record
from mathgrpo.runs.run_folder import choose_run_folder, create_run_folder
from mathgrpo.runs.run_info import start_info
from mathgrpo.runs.speedometer import build_speedometer
from mathgrpo.runs.trackers import open_trackers, require_trackers
from mathgrpo.runs.trackers.tracker import TrackedRun
from mathgrpo.training.evaluations import Evaluations
from mathgrpo.training.loop import run_to_the_end
from mathgrpo.training.plan import make_plan, plan_lines
from mathgrpo.training.prepare import Prepared, prepare
from mathgrpo.training.recipe_task import RecipeTask
from mathgrpo.training.resume import reopen, require_unfinished
from mathgrpo.training.together import require_same_weights, world_lines


def train(
    recipe: Recipe,
    *,
    recipe_name: str,
    resume: Path | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    hooks: Sequence[Hook] = (),
    machinery: Machinery | None = None,
) -> Path:
    """Train by a recipe and return the run folder.

    resume: a run folder to go on with; `recipe` is then the one it keeps (see `resume.resumed_recipe`).
    machinery: what computes the run, in place of what run.engine chooses.
    hooks: more that is to be done at the moments of the run, after what every run does.
    Raises: UserError for whatever is wrong, mostly before step 0; Interrupted after Ctrl-C or SIGTERM, when the run
    can be resumed.
    """
    with join_world(resolve_device(recipe.run.device), peer_timeout_s()) as world:
        shown = (progress or make_progress()) if world.is_main else SilentProgress()
        now = datetime.now().astimezone()
        folder = resume or world.from_main(lambda: choose_run_folder(recipe.run, recipe_name, now))
        saved = world.from_main(lambda: checkpoints(folder))
        state = load_state(saved[-1]) if saved else TrainingState(0, 0)
        if resume is not None:
            require_unfinished(folder, state.step, recipe.training.steps)
        require_trackers(recipe.training.trackers)
        ready = prepare(recipe, saved[-1] if saved else None, world, machinery=machinery)
        if saved:
            load_optimizer(saved[-1], ready.policy, ready.optimizer)
        require_same_weights(world, ready.optimizer, state.step)
        try:
            info = start_info(ready.policy, folder, recipe_name, command, now, ready.notes)
            with StopRequests(world) as stop:
                run = _run(ready, state, folder, stop)
                _run_with_hooks(run, ready, folder, info, shown, resume=resume is not None, more=hooks)
        finally:
            close_engine(ready.engine)
    return folder


def plan_lines_of(
    recipe: Recipe, recipe_name: str, *, resume: Path | None = None, machinery: Machinery | None = None
) -> list[str]:
    """Return the plan of a run for a reader, after every check that comes before step 0. Nothing is written.

    Raises: UserError for whatever is wrong.
    """
    folder = resume if resume is not None else choose_run_folder(recipe.run, recipe_name, datetime.now().astimezone())
    saved = checkpoints(folder)
    require_trackers(recipe.training.trackers)
    ready = prepare(recipe, saved[-1] if saved else None, machinery=machinery)
    return plan_lines(ready, make_plan(ready), folder)


def _run(ready: Prepared, state: TrainingState, folder: Path, stop: StopRequests) -> Run:
    """Return the run as it begins or goes on, its machine measured."""
    plan, world = make_plan(ready), ready.world
    meter = world.from_main(lambda: build_speedometer(ready.policy))
    return Run(
        RecipeTask(ready), ready.policy, ready.engine, ready.reference, ready.optimizer, meter, stop, world,
        resume_with=f"mathgrpo train --resume {folder}", step=state.step,
        token_budget=state.token_budget or plan.token_budget, recompute=plan.recompute, compiled=plan.compiled,
        machinery=ready.machinery, notes=list(ready.notes),
    )  # fmt: skip


def _run_with_hooks(
    run: Run, ready: Prepared, folder: Path, info: dict[str, Any], shown: Progress, *, resume: bool,
    more: Sequence[Hook],
) -> None:  # fmt: skip
    """Open the run folder, hang on the run what writes, shows and evaluates, and take its steps."""
    recipe, world, training = ready.recipe, ready.world, ready.recipe.training
    info |= {"engine": ready.engine.name, "processes": world.size} | run.speedometer.info
    lines = plan_lines(ready, make_plan(ready), folder)
    for line in (*lines, *world_lines(world, ready.policy.device), run.speedometer.line):
        shown.say(line)
    writing: list[Hook] = []
    if world.is_main:
        if resume:
            info = reopen(folder, recipe, info, run.step)
            shown.say(f"resuming after step {run.step} of {training.steps}")
        else:
            create_run_folder(folder, recipe, info)
        keep_log(ready.engine, folder)
        record = Record(folder, info, logged_groups())
        tracked = TrackedRun(tracker_project(), folder, info["start_time"], recipe.model_dump(mode="json"), run.step)
        try:
            trackers = open_trackers(training.trackers, tracked, shown.say, logged_groups())
        except UserError:
            record.end_with("failed", run.step)
            raise
        saving = Checkpoints(
            record, every=training.checkpoint_every, keep=kept_checkpoints(), best=training.evaluate_every > 0
        )
        writing = [record, trackers, Display(shown, training.evaluate_every), saving]
    run.hooks = (*writing, Evaluations(ready, folder), *more)

    def leave_in_order() -> None:
        run.tell("close", "failed")
        close_engine(ready.engine)

    world.leave_in_order = leave_in_order
    with shown:
        run_to_the_end(run)
