"""The reference notebooks' own reward functions, executed from their text as the oracle of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "reference-systems"


def functions(file: str, first: str, last: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the lines of a notebook from the one that begins with `first` up to the one with `last` define.

    Prose and fences between the code cells are left out: a line counts from the first that reads as code.
    """
    lines = (FOLDER / file).read_text(encoding="utf-8", errors="replace").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    end = next(i for i, line in enumerate(lines) if i > start and line.startswith(last))
    code, inside = [], True
    for line in lines[start:end]:
        if line.startswith("```"):
            inside = line.startswith("```python")
        elif inside:
            code.append(line)
    names: dict[str, Any] = dict(given or {})
    exec(compile("\n".join(code), file, "exec"), names)  # noqa: S102  the notebooks this project must reproduce
    return names
