"""mathgrpo train, demo and sft: a recipe, checked, then run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
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
        from mathgrpo.distributed.processes import launch
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


QUESTION = (
    "Michael is 9 years old. In 5 years his sister Barbara will be 4 times as old as Michael is now. "
    "How old is Barbara right now?"
)
"""Of a kind the starter was trained on: the starter guesses it, the trained model works it out."""

OPENING = """\
mathgrpo demo: a small language model finds out that working a problem out pays.
1. The starter model answers word problems it has never seen.
2. It practises on others: 8 attempts at each, and those that beat their group's mean become more likely (GRPO).
3. It answers the first problems again, and a paired test says whether it got better.
The first time, making the problems takes a quarter of a minute; they are kept.
"""


def demo_command(
    seed: Annotated[int, typer.Option("--seed", help="Seed of problem order and sampling.")] = 0,
    overrides: Overrides = None,
) -> None:
    """Train the starter model on this machine and see whether it got better.

    \b
    Example:
      mathgrpo demo --seed 1
    """
    from mathgrpo.config import load_recipe

    recipe = load_recipe("demo", [f"run.seed={seed}", *(overrides or [])])
    print(OPENING, flush=True)
    folder = run_training(recipe, "demo")
    print("\nOpen the report in a browser, or ask the trained model something:")
    command = sys.argv[0] if Path(sys.argv[0]).name == "mathgrpo" else "mathgrpo"
    print(f'  {command} solve {folder} "{QUESTION}"')


def sft_command(
    recipe: Annotated[str, typer.Argument(help="Path of a supervised recipe, or the bare name of one.")],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and show it, write nothing.")] = False,
) -> None:
    """Train a model on worked solutions, so that GRPO has something to start from.

    \b
    Example:
      mathgrpo sft sft-traces --set problems.source=traces.jsonl --set model.path=runs/my-run
    """
    from mathgrpo.config import load_model, recipe_to_toml
    from mathgrpo.config.load_recipe import find_recipe
    from mathgrpo.config.sft_recipe import SftRecipe

    loaded = load_model(SftRecipe, recipe, overrides or [])
    if dry_run:
        print(recipe_to_toml(loaded))
        return
    from mathgrpo.supervised.sft import run_sft

    quiet_libraries()
    with stops_told():
        print(f"run folder  {run_sft(loaded, find_recipe(recipe).stem, ['mathgrpo', *sys.argv[1:]])}")


def tiny_recipe(name_or_path: str, overrides: Sequence[str]) -> Recipe:
    """Return a recipe cut down to seconds on a CPU; what was set on the command line stays as it was set.

    W&B stays offline, unless WANDB_MODE says otherwise.
    """
    from mathgrpo.config import load_recipe
    from mathgrpo.supervised.tiny_run import tiny_run

    quiet_libraries()
    os.environ.setdefault("WANDB_MODE", "offline")
    return tiny_run(load_recipe(name_or_path, overrides), overrides)
