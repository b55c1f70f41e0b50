"""The commands, and what a user sees when something is wrong."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import Annotated

import typer

from mathgrpo.cli.audit_command import audit_command
from mathgrpo.cli.check_data_command import check_data_command
from mathgrpo.cli.eval_command import eval_command
from mathgrpo.cli.finished_run_commands import export_command, publish_command, report_command
from mathgrpo.cli.grade_command import grade_command
from mathgrpo.cli.look_commands import env_command
from mathgrpo.cli.options import OWN_NAMES
from mathgrpo.cli.score_command import score_command
from mathgrpo.cli.serve_command import serve_command
from mathgrpo.cli.solve_command import solve_command
from mathgrpo.cli.sweep_command import sweep_command
from mathgrpo.cli.train_commands import demo_command, sft_command, train_command
from mathgrpo.errors import UserError, naming

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
COMMANDS = (
    train_command, sft_command, eval_command, solve_command, sweep_command, serve_command, report_command,
    grade_command, score_command, audit_command, check_data_command, export_command, publish_command, demo_command,
    env_command,
)  # fmt: skip
for _command in COMMANDS:
    # An answer may begin with a minus sign: what is no option of `grade` is its text.
    context = {"ignore_unknown_options": True} if _command is grade_command else {}
    app.command(_command.__name__.removesuffix("_command").replace("_", "-"), context_settings=context)(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from mathgrpo.hardware.processor import versions_of

        typer.echo(versions_of(["mathgrpo"]).get("mathgrpo", "a checkout that is not installed"))
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    ctx.with_resource(naming(OWN_NAMES.get(ctx.invoked_subcommand or "", {})))


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
