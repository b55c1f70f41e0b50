"""mathgrpo demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mathgrpo.cli.options import Overrides

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
    from mathgrpo.cli.train_command import run_training
    from mathgrpo.config import load_recipe

    recipe = load_recipe("demo", [f"run.seed={seed}", *(overrides or [])])
    print(OPENING, flush=True)
    folder = run_training(recipe, "demo")
    print("\nOpen the report in a browser, or ask the trained model something:")
    command = sys.argv[0] if Path(sys.argv[0]).name == "mathgrpo" else "mathgrpo"
    print(f'  {command} solve {folder} "{QUESTION}"')
