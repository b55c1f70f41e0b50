"""The commands, and what a user sees when something is wrong."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import Annotated

import typer

from mathgrpo.cli import (
    check_data,
    demo,
    env,
    evaluate,
    export,
    publish,
    report,
    score,
    serve,
    sft,
    solve,
    sweep,
    train,
)
from mathgrpo.errors import UserError

REMEDIES = {
    errno.ENOSPC: "free the disk and try again",
    errno.EDQUOT: "free the disk and try again",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose another place, or get the right to use it",
    errno.EPERM: "choose another place, or get the right to use it",
}
"""What the machine can refuse at any time, wherever a command is -> what its user can do."""

app = typer.Typer(
    name="mathgrpo",
    help="Teach a small language model to reason about maths, on the machine you have.\n\nExample: mathgrpo demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it needs no rich, which takes longer to import than the rest
)
app.command("train")(train.train_command)
app.command("sft")(sft.sft_command)
app.command("eval")(evaluate.eval_command)
app.command("solve")(solve.solve_command)
app.command("sweep")(sweep.sweep_command)
app.command("serve")(serve.serve_command)
app.command("report")(report.report_command)
app.command("score")(score.score_command)
app.command("check-data")(check_data.check_data_command)
app.command("export")(export.export_command)
app.command("publish")(publish.publish_command)
app.command("demo")(demo.demo_command)
app.command("env")(env.env_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            typer.echo(metadata.version("mathgrpo"))
        except metadata.PackageNotFoundError:
            typer.echo("a checkout that is not installed")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Bad input ends with one "error:" line for each problem and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # replaced by a test or a notebook
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="mathgrpo")
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        _fail(f"{error.filename or 'disk'}: {error.strerror}; {remedy}")


def _fail(message: str) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
