"""Rows from a file (JSONL, JSON, CSV, Parquet) or from a hub data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError, first_line
from mathgrpo.hub import offline_if_unreachable
from mathgrpo.problems.table_rows import Row, shown


def read_table(path: Path) -> list[Row]:
    """Return all rows of a file, read by its suffix (.jsonl, .json, .csv, .parquet).

    Raises:
        UserError: the file is missing, unreadable, of another kind, broken (the line is named) or has no rows.
    """
    reader = READERS.get(path.suffix.lower())
    try:
        if reader is None:
            raise ValueError(f"not a {', '.join(READERS)} file; convert it to one of them")
        rows = reader(path)
        if rows:
            return rows
        complaint = "the file has no rows; give one with at least one problem"
    except FileNotFoundError:
        complaint = "no such file; check the path"
    except OSError as error:
        complaint = f"cannot be read ({error.strerror or error}); check the file"
    except UnicodeDecodeError:
        complaint = f"line {_undecodable_line(path)} is not UTF-8; save the file as UTF-8"
    except ValueError as error:
        complaint = str(error)
    raise UserError(f"problems.source={shown(path)}: {complaint}")


def _undecodable_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8 (a decoding error only knows its place in a buffer)."""
    with path.open("rb") as lines:
        return next(
            (number for number, line in enumerate(lines, start=1) if line.decode("utf-8", "ignore").encode() != line), 1
        )


def _read_jsonl(path: Path) -> list[Row]:
    """Return the rows of a file with one JSON object a line; empty lines are skipped."""
    with path.open(encoding="utf-8-sig") as lines:
        places = ((f"line {number}", line) for number, line in enumerate(lines, start=1) if line.strip())
        return [_object_row(place, _json_value(line, place)) for place, line in places]


def _read_json(path: Path) -> list[Row]:
    """Return the rows of a file that is one JSON list of objects."""
    text = path.read_text(encoding="utf-8-sig")
    values = _json_value(text, "the file") if text.strip() else []
    if not isinstance(values, list):
        raise ValueError("the file is not a JSON list of objects; name it .jsonl if it has one a line")
    return [_object_row(row.place, row.values) for row in numbered(values)]


def _read_csv(path: Path) -> list[Row]:
    """Return the rows of a comma-separated file with a header line."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            rows = numbered(csv.DictReader(lines))
        except csv.Error as error:
            raise ValueError(f"not readable as CSV ({error}); check quotes and commas") from error
    for row in rows:
        if None in row.values:  # where DictReader files the cells beyond the header
            raise ValueError(f"{row.place} has more cells than the header; put text that holds a comma in quotes")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    """Return the rows of a Parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError("reading Parquet needs pyarrow; pip install pyarrow, or use JSONL") from error
    try:
        return numbered(parquet.ParquetFile(path).read().to_pylist())
    except pyarrow.ArrowException as error:
        raise ValueError(f"not readable as Parquet ({first_line(error, 120)}); write the file again") from error


def numbered(values: Iterable[Any]) -> list[Row]:
    """Return rows counted from 1."""
    return [Row(f"row {number}", row) for number, row in enumerate(values, start=1)]


def _json_value(text: str, place: str) -> Any:
    """Return parsed JSON.

    Raises: ValueError that says where it is broken.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at {f'column {error.colno}' if place.startswith('line') else f'line {error.lineno}'}"
    except RecursionError:
        reason = "nested too deep"
    except ValueError as error:  # a whole number of too many digits
        reason = str(error).partition(";")[0]
    raise ValueError(f"{place} is not JSON ({reason}); repair or remove it")


def _object_row(place: str, value: Any) -> Row:
    """Return the row of a parsed value, which must be a JSON object."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f'{place} is a {kind}, not an object such as {{"question": …, "answer": …}}')
    return Row(place, value)


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


ALLOWED = '"generated", a path to a .jsonl, .json, .csv or .parquet file or folder, or a hub id such as openai/gsm8k'


def hub_rows(source: str, subset: str, split: str) -> list[Row]:
    """Return all rows of one split of a dataset.

    Args:
        source: hub id, or path of a local folder in hub layout.
        subset: configuration name, or "" for the only one.

    Raises:
        UserError: it cannot be loaded (no network, no such dataset, subset or split) or is empty.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"problems.source={shown(source)}: hub datasets need the datasets library; "
            "pip install datasets, or use a JSONL file"
        ) from error
    try:
        with offline_if_unreachable(not Path(source).is_dir()):
            rows = numbered(datasets.load_dataset(source, subset or None, split=split))
    # Below load_dataset lie HTTP, file and Parquet libraries, each failing with exceptions of its own.
    except Exception as error:
        raise UserError(_message(source, subset, split, error)) from error
    if not rows:
        raise UserError(
            f"problems.source={shown(source)}: split {shown(split)} has no rows; name another in problems.splits"
        )
    return rows


def _message(source: str, subset: str, split: str, error: Exception) -> str:
    """Return one line that says what failed and what to do about it."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    named, remedy = source, f'allowed: {ALLOWED}; check the name and the network, or use a local copy or "generated"'
    said = f"cannot be loaded ({reason})"
    if "split" in reason.lower() and isinstance(error, ValueError):
        said = f"no split {shown(split)} ({reason})"
        remedy = "name those of training and evaluation in problems.splits, or one of them to hold out a part of it"
    elif "config" in reason.lower() and isinstance(error, ValueError):
        named = f"{source}:{subset}" if subset else source
        said, remedy = f"cannot be loaded so ({reason})", "name one of its configurations behind a colon"
    return f"problems.source={shown(named)}: {said}; {remedy}"
