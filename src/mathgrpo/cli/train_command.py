"""mathgrpo train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathgrpo.cli.options import Overrides, quiet_libraries, stops_told
from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe


def train_command(
    recipe: Annotated[str, typer.Argument(help="A recipe, by path or bare name; not needed with --resume.")] = "",
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show recipe and plan, write nothing.")
    ] = False,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run folder.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="The run in seconds on a CPU: tiny model, generated problems, few steps.")
    ] = False,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Train in N processes together, one a CUDA device.", metavar="N")
    ] = 1,
) -> None:
    """Train a model by a recipe: evaluate, GRPO, evaluate again, report.

    \b
    Examples:
      mathgrpo train demo --set training.steps=20
      mathgrpo train recipes/demo.toml --dry-run
      mathgrpo train --resume runs/demo-20261121-090807
      mathgrpo train recipes/demo.toml --processes 2
      mathgrpo train qwen2.5-3b-qlora --tiny
    """
    from mathgrpo.cli.tiny_option import tiny_recipe
    from mathgrpo.config import load_recipe
    from mathgrpo.config.load_recipe import find_recipe

    if tiny and resume is not None:
        raise UserError("--tiny: a run that goes on keeps its own recipe; leave --tiny out")
    if resume is not None:
        loaded, name = resumed(resume, recipe, overrides or []), resume.resolve().name
    elif recipe and tiny:
        loaded, name = tiny_recipe(recipe, overrides or []), find_recipe(recipe).stem + "-tiny"
    elif recipe:
        loaded, name = load_recipe(recipe, overrides or []), find_recipe(recipe).stem
    else:
        raise UserError("RECIPE: nothing given; name a recipe, such as demo, or a run to go on with: --resume RUN")
    if processes > 1 and launches(loaded, processes) and not dry_run:
        from mathgrpo.distributed.launch import launch
        from mathgrpo.models import resolve_device

        raise typer.Exit(launch(sys.argv[1:], processes, resolve_device(loaded.run.device)))  # each is this command
    run_training(loaded, name, resume=resume, dry_run=dry_run)


def launches(recipe: Recipe, processes: int) -> bool:
    """Return whether the processes are still to be started: False in each of them.

    Raises: UserError when the recipe cannot be run by so many, or another launcher started another number.
    """
    from mathgrpo.distributed import job_of_environment, require_devices
    from mathgrpo.models import resolve_device
    from mathgrpo.training.together import require_shareable

    job = job_of_environment()
    if job is not None and job.size != processes:
        raise UserError(f"--processes {processes}: WORLD_SIZE={job.size} were started already; leave --processes out")
    require_shareable(recipe, processes)
    require_devices(processes, resolve_device(recipe.run.device))
    return job is None


def resumed(run: Path, recipe: str, overrides: list[str]) -> Recipe:
    """Return the recipe a run goes on with."""
    from mathgrpo.config import load_recipe
    from mathgrpo.training.train_recipe import require_same, resumed_recipe

    kept = resumed_recipe(run, overrides)
    if recipe:
        require_same(load_recipe(recipe), kept, run)
    return kept


def run_training(recipe: Recipe, name: str, *, resume: Path | None = None, dry_run: bool = False) -> Path | None:
    """Return the run folder of a training run, its report written; None for a dry run."""
    from mathgrpo.config import recipe_to_toml
    from mathgrpo.distributed import job_of_environment
    from mathgrpo.report import write_report
    from mathgrpo.training import plan_lines_of, train

    quiet_libraries()
    job = job_of_environment()
    speaks = job is None or job.rank == 0
    if dry_run:
        lines = plan_lines_of(recipe, name, resume=resume)
        print(recipe_to_toml(recipe))
        print("\n".join(f"# {line}" for line in lines))
        return None
    with stops_told(speaks=speaks):
        folder = train(recipe, recipe_name=name, resume=resume, command=["mathgrpo", *sys.argv[1:]])
    if speaks:
        print(f"run folder  {folder}\nreport      {write_report(folder)}")
    return folder
