"""mathgrpo report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
