"""The results file: one line of JSON for each case, written the moment it is known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""A case's fields (see `child.run_case`), its stage, and the run it belongs to; a line without a case is a stage's or,
without a stage, a run's own."""


class Record:
    """Appends the lines of one run to a results file."""

    def __init__(self, path: Path, run: str) -> None:
        self.path, self.run = path, run

    def add(self, **fields: Any) -> Line:
        """Append a line; it is on the disk when this returns, whatever happens to the machine next."""
        line: Line = {"run": self.run, **fields}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
            file.flush()
        return line


def read_lines(path: Path) -> list[Line]:
    """Return a results file's lines in order; one cut short by a machine that went away is left out."""
    lines: list[Line] = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "run" in line:
            lines.append(line)
    return lines


def at_size(line: Line) -> str:
    """Return " at SIZE" for a case that ran out of memory, else ""."""
    return f" at {line['size']}" if line["status"] == "out of memory" and line["size"] else ""


def newest(lines: Iterable[Line]) -> dict[tuple[str, str], Line]:
    """Return the last line of every (stage, case), in the order they were first met: a case run again replaces itself.

    Lines without a case are left out.
    """
    found: dict[tuple[str, str], Line] = {}
    for line in lines:
        if line.get("case"):
            found[line["stage"], line["case"]] = line
    return found
