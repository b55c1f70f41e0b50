"""mathgrpo train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe


def train_command(
    recipe: Annotated[str, typer.Argument(help="A recipe, by path or bare name; not needed with --resume.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; can be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show recipe and plan, write nothing.")
    ] = False,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run folder.")] = None,
) -> None:
    """Train a model by a recipe: evaluate, GRPO, evaluate again, report.

    \b
    Examples:
      mathgrpo train demo --set training.steps=20
      mathgrpo train recipes/demo.toml --dry-run
      mathgrpo train --resume runs/demo-20261121-090807
    """
    from mathgrpo.config import load_recipe
    from mathgrpo.config.load import find_recipe

    if resume is not None:
        run_training(resumed(resume, recipe, overrides or []), resume.resolve().name, resume=resume, dry_run=dry_run)
    elif recipe:
        loaded = load_recipe(recipe, overrides or [])
        run_training(loaded, find_recipe(recipe).stem, dry_run=dry_run)
    else:
        raise UserError("RECIPE: nothing given; name a recipe, such as demo, or a run to go on with: --resume RUN")


def resumed(run: Path, recipe: str, overrides: list[str]) -> Recipe:
    """Return the recipe a run goes on with."""
    from mathgrpo.config import load_recipe
    from mathgrpo.training.resume import require_same, resumed_recipe

    kept = resumed_recipe(run, overrides)
    if recipe:
        require_same(load_recipe(recipe), kept, run)
    return kept


def run_training(recipe: Recipe, name: str, *, resume: Path | None = None, dry_run: bool = False) -> Path | None:
    """Return the run folder of a training run, its report written; None for a dry run."""
    from mathgrpo.cli.libraries import quiet_libraries
    from mathgrpo.config import recipe_to_toml
    from mathgrpo.report import write_report
    from mathgrpo.training import Interrupted, plan_lines_of, train

    quiet_libraries()
    if dry_run:
        lines = plan_lines_of(recipe, name, resume=resume)
        print(recipe_to_toml(recipe))
        print("\n".join(f"# {line}" for line in lines))
        return None
    try:
        folder = train(recipe, recipe_name=name, resume=resume, command=["mathgrpo", *sys.argv[1:]])
    except Interrupted as stop:
        print(stop)
        raise typer.Exit(stop.exit_code) from None
    print(f"run folder  {folder}")
    print(f"report      {write_report(folder)}")
    return folder
