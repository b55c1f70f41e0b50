"""mathgrpo export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mathgrpo.cli.options import CheckDevice, CheckedProblems, Dtype, quiet_libraries, refuse_idle


def export_command(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="A run folder, a checkpoint in one, or a model folder.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where; default: RUN/export/FORMAT.")
    ] = None,
    kind: Annotated[
        Literal["merged", "adapter", "zip", "gguf"], typer.Option("--format", help="merged, adapter, zip or gguf.")
    ] = "merged",
    dtype: Dtype = "auto",
    check: CheckedProblems = 25,
    converter: Annotated[
        Path | None, typer.Option(metavar="FILE", help="llama.cpp's convert_hf_to_gguf.py, for gguf.")
    ] = None,
    device: CheckDevice = "auto",
) -> None:
    """Write a trained model for other programs, and score it again.

    \b
    Examples:
      mathgrpo export runs/my-run
      mathgrpo export runs/my-run --format zip --dtype bfloat16
    """
    from mathgrpo.publishing import export_run

    if kind != "gguf":
        refuse_idle(ctx, {"converter": "--converter"}, "is for --format gguf")
    if kind == "adapter":
        refuse_idle(ctx, {"dtype": "--dtype"}, "an adapter is written as it was trained, in float32; leave it out")
    quiet_libraries()
    export = export_run(
        run, to, kind=kind, dtype=dtype, check=check, converter=converter, device=device,
        say=lambda line: print(f"{line} …", flush=True),
    )  # fmt: skip
    print("\n".join(export.lines))
