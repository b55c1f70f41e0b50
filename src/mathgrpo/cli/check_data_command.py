"""mathgrpo check-data."""

from __future__ import annotations

from typing import Annotated

import typer

SHOWN_FAILURES = 20


def check_data_command(
    path: Annotated[str, typer.Argument(help="A JSONL, CSV or Parquet file, a folder of such files, or a hub id.")],
    question_column: Annotated[str, typer.Option(help="Column with the question.")] = "question",
    answer_column: Annotated[str, typer.Option(help="Column with the gold answer.")] = "answer",
    fmt: Annotated[str, typer.Option("--format", help="Response format: xml, working_out, think or boxed.")] = "xml",
    split: Annotated[str, typer.Option(help="Only this split, or file stem in a folder; default: all.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help=f"List every failure, not the first {SHOWN_FAILURES} of a split.")
    ] = False,
) -> None:
    """Replay every gold answer through the grader and the response format, and say which fail.

    Exit code 0 if all pass, 1 if a row fails, 2 if the data cannot be read.

    \b
    Example:
      mathgrpo check-data data/gsm8k --split test
    """
    from mathgrpo.answers.gold_check import check_rows, summary_line
    from mathgrpo.config import Recipe
    from mathgrpo.config.load_recipe import validated
    from mathgrpo.formats import get_format
    from mathgrpo.problems.origin import all_rows, read_split

    columns = {"question": question_column, "answer": answer_column}
    chosen = {"splits": ("train", split)} if split else {}
    section = validated(Recipe, {"problems": {"source": path, "columns": columns, **chosen}}).problems
    splits = {split: read_split(section, split)} if split else all_rows(section)
    failures = []
    for name, rows in splits.items():
        found = check_rows(rows, section, get_format(fmt))
        failures += found
        for failure in found if every else found[:SHOWN_FAILURES]:
            print(f"{name}: {failure}")
        if len(found) > SHOWN_FAILURES and not every:
            print(f"{name}: and {len(found) - SHOWN_FAILURES} more; list them with --all")
    print(summary_line(sum(map(len, splits.values())), failures))
    raise typer.Exit(1 if failures else 0)
