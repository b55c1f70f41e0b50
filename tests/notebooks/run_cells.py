"""Runs a notebook's code cells top to bottom in one Python process: python run_cells.py NOTEBOOK [OLD NEW]...

A cell's last expression is shown, as Jupyter shows it. OLD is replaced by NEW in the cells; it must be there once.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any


def code_cells(notebook: Path) -> list[str]:
    """Return the source of every code cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def replaced(cells: list[str], old: str, new: str) -> list[str]:
    """Return the cells with a text replaced that is in exactly one place."""
    if sum(cell.count(old) for cell in cells) != 1:
        raise ValueError(f"{old!r} must be in the cells once")
    return [cell.replace(old, new) for cell in cells]


def run(cells: list[str]) -> None:
    """Execute the cells in one namespace; the number of the cell is in every traceback."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, start=1):
        tree = ast.parse(cell, f"cell {number}")
        last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None  # type: ignore[attr-defined]
        exec(compile(tree, f"cell {number}", "exec"), names)  # noqa: S102  our own notebook
        value = eval(compile(last, f"cell {number}", "eval"), names) if last is not None else None  # noqa: S307
        if value is not None:
            print(value)


if __name__ == "__main__":
    path, *replacement = sys.argv[1:]
    source = code_cells(Path(path))
    for old, new in zip(replacement[::2], replacement[1::2], strict=True):
        source = replaced(source, old, new)
    run(source)
