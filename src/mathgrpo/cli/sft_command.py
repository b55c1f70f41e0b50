"""mathgrpo sft."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mathgrpo.cli.options import Overrides, quiet_libraries, stops_told


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
