"""mathgrpo sft."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def sft_command(
    recipe: Annotated[str, typer.Argument(help="Path of a supervised recipe, or the bare name of one.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; can be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and show it, write nothing.")] = False,
) -> None:
    """Train a model on worked solutions, so that GRPO has something to start from.

    \b
    Example:
      mathgrpo sft starter-sft --set run.name=my-starter
    """
    from mathgrpo.config import load_model, recipe_to_toml
    from mathgrpo.config.load import find_recipe
    from mathgrpo.config.sft_recipe import SftRecipe

    loaded = load_model(SftRecipe, recipe, overrides or [])
    if dry_run:
        print(recipe_to_toml(loaded))
        return
    from mathgrpo.cli.libraries import quiet_libraries
    from mathgrpo.training import Interrupted
    from mathgrpo.training.sft import run_sft

    quiet_libraries()
    command = ["mathgrpo", *sys.argv[1:]]
    try:
        print(f"run folder  {run_sft(loaded, find_recipe(recipe).stem, command)}")
    except Interrupted as stop:
        print(stop)
        raise typer.Exit(stop.exit_code) from None
