"""The code cells of a notebook that was written out as text."""

from __future__ import annotations

import ast


def code_cells(text: str) -> list[str]:
    """Return the code cells: between ```python fences, or after "In [None]:" as far as the lines are Python.

    Shell lines (!pip) are left out. After "In [None]:" a cell's printed output and the next prose follow without a
    mark: the cell is the longest run of lines that parses, up to what only looks like Python ("Device: cuda").
    """
    if "```python" in text:
        cells = [part.split("```", 1)[0] for part in text.split("```python")[1:]]
        return [_longest_python(_without_shell(cell)) for cell in cells]  # the last one may be cut off
    return [_longest_python(_without_shell(part)) for part in text.split("In [None]:")[1:]]


def _without_shell(cell: str) -> str:
    return "\n".join(line for line in cell.split("\n") if not line.lstrip().startswith(("!", "%")))


def _longest_python(cell: str) -> str:
    lines = cell.split("\n")
    for count in range(len(lines), 0, -1):
        try:
            tree = ast.parse("\n".join(lines[:count]))
        except SyntaxError:
            continue
        output = [s.lineno for s in tree.body if isinstance(s, ast.AnnAssign) and s.value is None]
        return "\n".join(lines[: output[0] - 1 if output else count])
    return ""
