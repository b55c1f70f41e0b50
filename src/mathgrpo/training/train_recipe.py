"""From a recipe to a run folder: what is prepared, where it is written, and the loop with its hooks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from mathgrpo.config import Recipe, recipe_to_toml
from mathgrpo.config.load_recipe import kept_toml
from mathgrpo.config.machinery import Machinery
from mathgrpo.config.overrides import kept_checkpoints, logged_groups, peer_timeout_s, tracker_project
from mathgrpo.config.tiny_recipe import MARK
from mathgrpo.distributed import join_world
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluation_names
from mathgrpo.evaluation.evaluate import EVALUATION_FOLDER
from mathgrpo.files import write_atomically
from mathgrpo.models import resolve_device
from mathgrpo.runs.checkpoint import TrainingState, checkpoints, load_optimizer, load_state
from mathgrpo.runs.hook import Hook, Run
from mathgrpo.runs.interrupt import StopRequests
from mathgrpo.runs.progress import TextProgress, make_progress
from mathgrpo.runs.record import Checkpoints, Record
from mathgrpo.runs.run_folder import (
    CONFIG,
    METRICS,
    ROLLOUTS,
    choose_run_folder,
    create_run_folder,
    forget_after,
    open_run_folder,
    read_info,
    start_info,
    write_info,
)
from mathgrpo.runs.speedometer import build_speedometer
from mathgrpo.runs.tracker_kinds import TrackedRun
from mathgrpo.runs.trackers import Trackers, require_trackers
from mathgrpo.training.evaluations import Evaluations
from mathgrpo.training.loop import run_to_the_end
from mathgrpo.training.plan import plan_lines
from mathgrpo.training.prepare import Prepared, prepare
from mathgrpo.training.recipe_task import RecipeTask
from mathgrpo.training.together import require_same_weights, world_lines
from mathgrpo.update import Updater
from mathgrpo.update.layer_modes import compile_pays


def train(
    recipe: Recipe,
    *,
    recipe_name: str,
    resume: Path | None = None,
    command: Sequence[str] = (),
    progress: TextProgress | None = None,
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
                _run_with_hooks(run, ready, folder, info, progress or make_progress(), resume is not None, hooks)
        finally:
            ready.engine.close()
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
    return plan_lines(ready, folder)


def _run(ready: Prepared, state: TrainingState, folder: Path, stop: StopRequests) -> Run:
    """Return the run as it begins or goes on, its machine measured."""
    world, memory, recipe = ready.world, ready.memory, ready.recipe
    rollout = recipe.rollout
    tokens = recipe.training.steps * rollout.prompts_per_step * rollout.group_size * rollout.max_new_tokens
    meter = world.from_main(lambda: build_speedometer(ready.policy))
    updater = Updater(
        ready.policy, ready.optimizer, reference=ready.reference, world=world, machinery=ready.machinery,
        longest=ready.longest_text,
    )  # fmt: skip
    return Run(
        RecipeTask(ready), ready.policy, ready.engine, updater, ready.optimizer, meter, stop, world,
        resume_with=f"mathgrpo train --resume {folder}", step=state.step,
        token_budget=state.token_budget or (memory.token_budget if memory is not None else None),
        recompute=memory is not None and memory.recompute,
        compiled=compile_pays(ready.machinery, ready.policy.device, tokens),
        notes=list(ready.notes),
    )  # fmt: skip


def _run_with_hooks(
    run: Run, ready: Prepared, folder: Path, info: dict[str, Any], shown: TextProgress, resume: bool,
    more: Sequence[Hook],
) -> None:  # fmt: skip
    """Open the run folder, hang on the run what writes, shows and evaluates, and take its steps."""
    recipe, world, training = ready.recipe, ready.world, ready.recipe.training
    info |= {"engine": ready.engine.name, "processes": world.size} | run.speedometer.info
    lines = plan_lines(ready, folder)
    writing: list[Hook] = []
    if world.is_main:
        run.hooks, shown.evaluate_every = [shown], training.evaluate_every
        for line in (*lines, *world_lines(world, ready.policy.device), run.speedometer.line):
            run.tell("told", line)
        if resume:
            info = reopen(folder, recipe, info, run.step)
            run.tell("told", f"resuming after step {run.step} of {training.steps}")
        else:
            create_run_folder(folder, recipe, info)
        ready.engine.keep_log(folder)
        record = Record(folder, info, logged_groups())
        tracked = TrackedRun(tracker_project(), folder, info["start_time"], recipe.model_dump(mode="json"), run.step)
        trackers = Trackers(training.trackers, tracked, logged_groups())
        saving = Checkpoints(
            record, every=training.checkpoint_every, keep=kept_checkpoints(), best=training.evaluate_every > 0
        )
        writing = [record, trackers, shown, saving]
    run.hooks = (*writing, Evaluations(ready, folder), *more)

    def leave_in_order() -> None:
        run.tell("close", "failed")
        ready.engine.close()

    world.leave_in_order = leave_in_order
    with shown if world.is_main else nullcontext():
        run_to_the_end(run)


MAY_CHANGE = ("training.", "run.device")
"""What can be set on a resumed run: nothing that would make its first half another run than its second."""


def resumed_recipe(folder: Path, overrides: Sequence[str]) -> Recipe:
    """Return the recipe to go on with: the run folder's own, changed where that is honest.

    Raises: UserError for an override that would change what the run has done already, or no run folder.
    """
    for override in overrides:
        if not override.strip().startswith(MAY_CHANGE):
            names = ", ".join(name.rstrip(".") for name in MAY_CHANGE)
            raise UserError(
                f"--set {override}: a resumed run keeps its recipe; only {names} can be set; "
                "start a new run to change more"
            )
    recipe = open_run_folder(folder, overrides)
    kept = [note for note in read_info(folder).get("notes", []) if note.startswith(MARK)]
    return recipe.with_notes((*kept, *kept_toml(Recipe, folder / CONFIG)[1]))


def require_same(given: Recipe, kept: Recipe, folder: Path) -> None:
    """Raise UserError unless a recipe named together with --resume is the one the run keeps."""
    for section in Recipe.model_fields:
        one, two = getattr(given, section), getattr(kept, section)
        if section == "model" and given.model.dtype == "auto":
            one = given.model.model_copy(update={"dtype": kept.model.dtype})  # the run has settled it
        if section not in ("run", "training") and one != two:
            raise UserError(
                f"--resume {folder}: the recipe's [{section}] is not the run's; "
                "leave the recipe out to go on with the run's own"
            )


def require_unfinished(folder: Path, step: int, steps: int) -> None:
    """Raise UserError when the run has ended, or is longer already than it shall become."""
    if step > steps:
        raise UserError(f"training.steps={steps}: the run has done {step} steps already; use more than {step}")
    if step == steps and read_info(folder).get("status") == "finished":
        raise UserError(
            f"--resume {folder}: the run is finished ({step} steps); go on with --set training.steps=N, N above {step}"
        )


def reopen(folder: Path, recipe: Recipe, info: dict[str, Any], step: int) -> dict[str, Any]:
    """Return run.json of a run that goes on after this step, with everything written after it taken back."""
    before = read_info(folder)
    kept = {key: before[key] for key in ("start_time", "command", "best") if key in before}
    info = info | kept | {"resumed_after": [*before.get("resumed_after", []), step]}
    forget_after(folder / METRICS, step)
    forget_after(folder / ROLLOUTS, step)
    for name in evaluation_names(folder):
        if _is_later(name, step, recipe.training.steps):
            for suffix in (".json", ".jsonl"):
                (folder / EVALUATION_FOLDER / f"{name}{suffix}").unlink(missing_ok=True)
    for stale in folder.glob("checkpoints/.step-*"):
        with suppress(OSError):
            shutil.rmtree(stale)
    for name in ("verdict.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / CONFIG, recipe_to_toml(recipe))
    write_info(folder, info)
    return info


def _is_later(name: str, step: int, steps: int) -> bool:
    """Return whether an evaluation was made after a step: "after" is, unless all steps are done."""
    plain = name.removesuffix("-templates")
    if plain == "after":
        return step < steps
    return plain.startswith("step-") and plain[5:].isdigit() and int(plain[5:]) > step
