"""mathgrpo sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mathgrpo.cli.options import quiet_libraries, refuse_idle, stops_told
from mathgrpo.errors import UserError

if TYPE_CHECKING:
    from mathgrpo.config import Recipe
    from mathgrpo.sweep.run_sweep import SweepSettings


Pruner = Literal["median", "asha", "none"]


def sweep_command(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe, by path or bare name; not needed with --resume.")] = "",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="PATH=RANGE",
            help="What to vary, as in optimizer.learning_rate=1e-6..1e-4:log or rollout.group_size=4,8; can be "
            "repeated. Default: learning rate, grpo.beta, group size.",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(help="Trials in all; default: 20, or the sweep's own with --resume.", min=0)
    ] = 0,
    validation: Annotated[int, typer.Option(help="Training problems set aside to judge trials.", min=1)] = 200,
    pruner: Annotated[Pruner, typer.Option(help="Stop trials that fall behind: median, asha or none.")] = "median",
    objective: Annotated[
        str, typer.Option(help="What is to be large: correct, the recipe's accuracy, or a reward's mean, by its name.")
    ] = "correct",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting of every trial.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Sweep folder; default: runs/sweep-RECIPE-DATE-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="SWEEP", help="Go on with this folder.")] = None,
) -> None:
    """Search a recipe's best settings by held-out accuracy, on problems set aside from training.

    \b
    Examples:
      mathgrpo sweep demo --trials 12
      mathgrpo sweep demo --param optimizer.learning_rate=1e-5..1e-3:log --param rewards.format=0..0.5
      mathgrpo sweep --resume runs/sweep-demo-20261121-090807
    """  # fmt: skip
    from mathgrpo.sweep.run_sweep import finished, open_study, require_optuna

    require_optuna()
    if resume is not None:
        kept = "a sweep that goes on keeps its own; only --trials can be given with --resume"
        named = {"recipe": "RECIPE", "param": "--param", "overrides": "--set", "out": "--out"}
        refuse_idle(ctx, named | {name: f"--{name}" for name in ("validation", "pruner", "objective")}, kept)
        folder, (loaded, settings) = resume, _resumed(resume, trials)
    elif recipe:
        chosen = {"trials": trials or 20, "validation_size": validation, "pruner": pruner, "objective": objective}
        folder, loaded, settings = _new(recipe, param or [], chosen, overrides or [], out)
    else:
        raise UserError("RECIPE: nothing given; name a recipe, such as demo, or a sweep to go on with: --resume SWEEP")

    from mathgrpo.evaluation.records import counted_by
    from mathgrpo.sweep.run_sweep import result_lines, run_sweep

    quiet_libraries()
    print(f"sweep folder  {folder}\nvaried        {'  '.join(each.text() for each in settings.parameters)}", flush=True)
    judged = counted_by(loaded.evaluation.correct) if settings.objective == "correct" else ""
    print(f"judged by     {settings.objective}{judged}", flush=True)
    with stops_told():
        winner = run_sweep(folder, loaded, settings, lambda text: print(text, flush=True))
    study = open_study(folder, loaded.run.seed, settings.pruner)
    print("\n".join(result_lines(folder, settings, winner, finished(study))))


def _new(
    recipe: str, param: list[str], chosen: dict[str, Any], overrides: list[str], out: Path | None
) -> tuple[Path, Recipe, SweepSettings]:
    """Return a new sweep, its folder written. chosen: fields of its settings."""
    from datetime import datetime

    from mathgrpo.config import load_recipe
    from mathgrpo.config.load_recipe import find_recipe
    from mathgrpo.formats import get_format
    from mathgrpo.rewards.make_suite import settled
    from mathgrpo.sweep.run_sweep import SweepSettings, create_sweep
    from mathgrpo.sweep.space import default_space, parse_parameters

    loaded = load_recipe(recipe, overrides)
    loaded = settled(loaded, get_format(loaded.format.name))
    if chosen["objective"] not in ("correct", *loaded.rewards):
        names = ", ".join(loaded.rewards)
        raise UserError(
            f"--objective {chosen['objective']}: not measured; use correct, or a reward of [rewards]: {names}"
        )
    texts = param or [each.text() for each in default_space(loaded)]
    settings = SweepSettings(parameters=parse_parameters(texts, loaded), **chosen)
    name = f"sweep-{find_recipe(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = out if out is not None else Path(loaded.run.output_dir).expanduser() / name
    create_sweep(folder, loaded, settings)
    return folder, loaded, settings


def _resumed(folder: Path, trials: int) -> tuple[Recipe, SweepSettings]:
    """Return a sweep that is there, with more trials where they are asked for."""
    from dataclasses import replace

    from mathgrpo.sweep.run_sweep import open_sweep, write_settings

    recipe, settings = open_sweep(folder)
    if trials:
        settings = replace(settings, trials=trials)
        write_settings(folder, settings)
    return recipe, settings
