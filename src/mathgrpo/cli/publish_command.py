"""mathgrpo publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mathgrpo.cli.options import CheckDevice, CheckedProblems, Dtype, quiet_libraries, refuse_idle


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
