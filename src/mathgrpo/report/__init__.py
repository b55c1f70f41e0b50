"""A run folder as one page a person can read: the verdict, the curves, the problems, the completions."""

from __future__ import annotations

from pathlib import Path

from mathgrpo.files import write_atomically
from mathgrpo.report.page import render_page
from mathgrpo.report.read_run import load_run

__all__ = ["write_report"]


def write_report(run_folder: Path) -> Path:
    """Return report.html in a run folder, written from what the folder holds.

    The page is one file under 2 MB that needs no network; it can be written while the run goes on.
    Raises: UserError in one line if this is no run folder, or a file in it is corrupt.
    """
    page = render_page(load_run(Path(run_folder)))
    path = Path(run_folder) / "report.html"
    write_atomically(path, page)
    return path
