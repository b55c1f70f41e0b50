"""mathgrpo report, export and publish: what is made of a run that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mathgrpo.cli.options import CheckDevice, CheckedProblems, Dtype, quiet_libraries, refuse_idle


def report_command(
    run: Annotated[Path, typer.Argument(help="A run folder, of a run that ended or still goes on.")],
) -> None:
    """Write a run's report.html again: one page that works offline.

    \b
    Example:
      mathgrpo report runs/demo-20261121-090807
    """
    from mathgrpo.report import write_report

    print(write_report(run))


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


def publish_command(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="A run folder, or a checkpoint in one.")],
    repo: Annotated[str, typer.Argument(help="NAME or OWNER/NAME on the model hub.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Who may see it.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show every file and the card; upload nothing, need no network.")
    ] = False,
    kind: Annotated[Literal["merged", "adapter"], typer.Option("--format", help="merged or adapter.")] = "merged",
    dtype: Dtype = "auto",
    license_id: Annotated[
        str, typer.Option("--license", help="Licence id for the card, such as apache-2.0; default: the starter's.")
    ] = "",
    check: CheckedProblems = 25,
    device: CheckDevice = "auto",
) -> None:
    """Upload a trained model with a card made from its run; log in first with: hf auth login.

    \b
    Examples:
      mathgrpo publish runs/my-run my-model --dry-run
      mathgrpo publish runs/my-run my-name/my-model --public --license apache-2.0
    """
    import tempfile

    from mathgrpo.publishing.publish import require_login, require_name, stage, staged_lines, upload

    if kind == "adapter":
        refuse_idle(ctx, {"dtype": "--dtype"}, "an adapter is written as it was trained, in float32; leave it out")
    quiet_libraries()
    require_name(repo)
    if not dry_run:
        require_login()
    with tempfile.TemporaryDirectory(prefix="mathgrpo-publish-") as scratch:
        staged = stage(
            run, repo, Path(scratch) / "model", kind=kind, dtype=dtype, check=check, license_id=license_id,
            device=device, say=lambda line: print(f"{line} …", flush=True),
        )  # fmt: skip
        print("\n".join(staged.export.lines[1:]))
        print("\n".join(staged_lines(staged, private=private)))
        print("dry run: nothing was uploaded" if dry_run else f"published   {upload(staged, private=private)}")
