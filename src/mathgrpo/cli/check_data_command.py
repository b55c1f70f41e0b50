"""mathgrpo check-data: what is read of a table, and which of its golds fail, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathgrpo.cli.options import require_appendable
from mathgrpo.errors import UserError
from mathgrpo.text import quoted

if TYPE_CHECKING:
    from mathgrpo.config.recipe import ProblemsSection
    from mathgrpo.problems.table_rows import Row
    from mathgrpo.types import Problem

SHOWN_FAILURES = 20
SHOWN_ROWS = 3


def check_data_command(
    path: Annotated[
        str, typer.Argument(help="A file (JSONL, JSON, CSV, Parquet, ...), a folder of them, or a hub id.")
    ],
    question_column: Annotated[str, typer.Option(help="Column with the question; default: what fits by name.")] = "",
    answer_column: Annotated[str, typer.Option(help="Column with the gold answer; default: what fits by name.")] = "",
    fmt: Annotated[str, typer.Option("--format", help="Response format: xml, working_out, think or boxed.")] = "xml",
    split: Annotated[str, typer.Option(help="Only this split, or file stem in a folder; default: all.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help=f"List every failure, not the first {SHOWN_FAILURES} of a split.")
    ] = False,
    passing: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows that pass to this JSONL file, as problems.")
    ] = None,
) -> None:
    """Show what is read of the first rows, replay every gold answer through grader and format, and say which fail.

    Exit code 0 if all pass, 1 if a row fails, 2 if the data cannot be read.

    \b
    Example:
      mathgrpo check-data data/gsm8k --split test
    """
    from mathgrpo.config import Recipe
    from mathgrpo.config.load_recipe import validated
    from mathgrpo.problems.origin import all_rows, read_split

    columns = {field: name for field, name in (("question", question_column), ("answer", answer_column)) if name}
    chosen = {"splits": ("train", split)} if split else {}
    section = validated(Recipe, {"problems": {"source": path, "columns": columns, **chosen}}).problems
    splits = {split: read_split(section, split)} if split else all_rows(section)
    if passing is not None:
        require_new(passing, splits)
    failures = sum(
        _check_split(name, rows, section, fmt, passing, shown=None if every else SHOWN_FAILURES)
        for name, rows in splits.items()
    )
    checked = sum(map(len, splits.values()))
    print(f"{checked} rows: {checked - failures} pass, {failures} fail")
    raise typer.Exit(1 if failures else 0)


def require_new(path: Path, splits: Iterable[str]) -> None:
    """Return when the passing rows can be written: to a new file, of one split.

    Raises: UserError otherwise.
    """
    names = list(splits)
    if len(names) > 1:
        raise UserError(f"--passing: there are {len(names)} splits, {', '.join(names)}; name one with --split")
    if path.exists():
        raise UserError(f"--passing {path}: is there already; name a new file")
    require_appendable("--passing", path)


def _check_split(
    name: str, rows: list[Row], section: ProblemsSection, fmt: str, passing: Path | None, *, shown: int | None
) -> int:
    """Print how a split is read, its first rows and what fails, and return how many rows do."""
    from mathgrpo.answers.gold_check import check_rows
    from mathgrpo.files import write_atomically
    from mathgrpo.formats import get_format
    from mathgrpo.problems.columns import chosen_columns, how_read
    from mathgrpo.problems.row_problem import problem_from_row

    chosen = chosen_columns(section, rows)
    read = how_read(section, chosen)
    print(f"{name}: {len(rows):,} rows{f'; {read}' if read else ''}")
    failures = check_rows(rows, chosen, get_format(fmt))
    bad = {failure.row for failure in failures}
    problems = (problem_from_row(row, chosen) for number, row in enumerate(rows, start=1) if number not in bad)
    for number in range(1, min(SHOWN_ROWS, len(rows)) + 1):
        if number not in bad:
            problem = problem_from_row(rows[number - 1], chosen)
            print(f"{name}: row {number} asks {quoted(problem.question, 80)}, gold {quoted(problem.answer)}")
    for lines in (list(map(str, failures)), _other_results(rows, chosen, bad)):
        print("".join(f"{name}: {line}\n" for line in lines[:shown]), end="")
        if shown is not None and len(lines) > shown:
            print(f"{name}: and {len(lines) - shown} more; list them with --all")
    if passing is not None:
        write_atomically(passing, "".join(_line(problem) for problem in problems))
        print(f"{len(rows) - len(bad):,} rows written to {passing}")
    return len(failures)


def _other_results(rows: list[Row], section: ProblemsSection, bad: set[int]) -> list[str]:
    """Return a line for each row whose worked solution, in a column beside the gold's, marks another result."""
    from mathgrpo.answers import grade
    from mathgrpo.problems.known_columns import WORKED, in_table
    from mathgrpo.problems.marked_result import result_of
    from mathgrpo.problems.row_problem import problem_from_row

    lines = []
    for number, row in enumerate(rows, start=1):
        column = next((found for name in WORKED if (found := in_table(name, map(str, row.values)))), "")
        text = row.values.get(column)
        if number in bad or column in ("", section.column("answer")) or not isinstance(text, str):
            continue
        marked, gold = result_of(text), problem_from_row(row, section).answer
        if marked and marked[0] != gold and grade(marked[0], gold) == "wrong":
            lines.append(f"row {number}: gold {quoted(gold)}, though its {quoted(column)} marks {quoted(marked[0])}")
    return lines


def _line(problem: Problem) -> str:
    """Return a problem as a line of JSONL that is read back as it is."""
    solution = {"solution": problem.solution} if problem.solution else {}
    own = {"question": problem.question, "answer": problem.answer}
    return json.dumps({**problem.columns, **solution, **own}, ensure_ascii=False, default=str) + "\n"
