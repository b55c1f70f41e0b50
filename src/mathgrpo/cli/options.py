"""Options of several commands; options that are wrong however good their values, told before any work begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from mathgrpo.errors import UserError

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; can be repeated.")
]
"""The option of every command that takes a recipe."""
Model = Annotated[str, typer.Argument(help='"starter", a run folder, a model folder or a hub id.')]
FormatName = Annotated[str, typer.Option("--format", help="Response format; default: the run's own, else xml.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Plain = Annotated[
    bool, typer.Option("--plain", help="Decode by the model's own forward pass, not by the fastest decoder.")
]
"""What the commands share that take a model to draw from."""
CheckedProblems = Annotated[int, typer.Option(metavar="N", help="Held-out problems to solve again; 0: none.", min=0)]
CheckDevice = Annotated[str, typer.Option(help="auto, cpu or cuda: where it is scored again.")]
"""What the commands share that write or upload a model and then score it again."""


def refuse_idle(ctx: typer.Context, idle: Mapping[str, str], why: str) -> None:
    """Return unless an option was given that changes nothing in this command line.

    idle: parameter name -> the option as the user writes it. why: what it would need, or what to do instead.
    Raises: UserError that names the first one given.
    """
    for name, option in idle.items():
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{option}: {why}")


def require_appendable(option: str, path: Path) -> None:
    """Return when lines can be appended to a file; a folder that is missing is made, an empty file is not left behind.

    Raises: UserError otherwise.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror}); choose another file") from error
