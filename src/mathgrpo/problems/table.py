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
    if reader is None:
        raise _bad_file(path, f"not a {', '.join(READERS)} file; convert it to one of them")
    try:
        rows = reader(path)
    except FileNotFoundError:
        raise _bad_file(path, "no such file; check the path") from None
    except OSError as error:
        raise _bad_file(path, f"cannot be read ({error.strerror or error}); check the file") from error
    except UnicodeDecodeError as error:
        line = _undecodable_line(path)
        raise _bad_file(path, f"line {line} is not UTF-8; save the file as UTF-8") from error
    if not rows:
        raise _bad_file(path, "the file has no rows; give one with at least one problem")
    return rows


def _bad_file(path: Path, complaint: str) -> UserError:
    """Return the error that names a file and what is wrong with it."""
    return UserError(f"problems.source={shown(path)}: {complaint}")


def _undecodable_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8 (a decoding error only knows its place in a buffer)."""
    with path.open("rb") as lines:
        return next(
            (number for number, line in enumerate(lines, start=1) if line.decode("utf-8", "ignore").encode() != line), 1
        )


def _read_jsonl(path: Path) -> list[Row]:
    """Return the rows of a file with one JSON object a line; empty lines are skipped."""
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"line {number}"
                rows.append(Row(place, _as_object(_json_value(line, path, place), path, place)))
    return rows


def _read_json(path: Path) -> list[Row]:
    """Return the rows of a file that is one JSON list of objects."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return []
    values = _json_value(text, path, "the file")
    if not isinstance(values, list):
        raise _bad_file(path, "the file is not a JSON list of objects; name it .jsonl if it has one a line")
    places = [f"row {number}" for number in range(1, len(values) + 1)]
    return [Row(place, _as_object(value, path, place)) for place, value in zip(places, values, strict=True)]


def _read_csv(path: Path) -> list[Row]:
    """Return the rows of a comma-separated file with a header line."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            return [_csv_row(number, values, path) for number, values in enumerate(csv.DictReader(lines), start=1)]
        except csv.Error as error:
            raise _bad_file(path, f"not readable as CSV ({error}); check quotes and commas") from error


def _csv_row(number: int, values: dict[str | Any, Any], path: Path) -> Row:
    """Return one CSV row, refusing cells beyond the header (DictReader files them under None)."""
    if None in values:
        raise _bad_file(path, f"row {number} has more cells than the header; put text that holds a comma in quotes")
    return Row(f"row {number}", values)


def _read_parquet(path: Path) -> list[Row]:
    """Return the rows of a Parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise _bad_file(path, "reading Parquet needs pyarrow; pip install pyarrow, or use JSONL") from error
    try:
        values = parquet.ParquetFile(path).read().to_pylist()
    except pyarrow.ArrowException as error:
        raise _bad_file(path, f"not readable as Parquet ({first_line(error, 120)}); write the file again") from error
    return numbered(values)


def numbered(values: Iterable[dict[str, Any]]) -> list[Row]:
    """Return rows counted from 1."""
    return [Row(f"row {number}", row) for number, row in enumerate(values, start=1)]


def _json_value(text: str, path: Path, place: str) -> Any:
    """Return parsed JSON, naming file and place when it is broken."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            where = f" at column {error.colno}" if place.startswith("line") else f" at line {error.lineno}"
            reason = f"{error.msg}{where}"
        else:
            reason = "nested too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise _bad_file(path, f"{place} is not JSON ({reason}); repair or remove it") from error


def _as_object(value: Any, path: Path, place: str) -> dict[str, Any]:
    """Return a parsed value that must be a JSON object."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise _bad_file(path, f'{place} is a {kind}, not an object such as {{"question": …, "answer": …}}')
    return value


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
    if "split" in reason.lower() and isinstance(error, ValueError):
        return (
            f"problems.source={shown(source)}: no split {shown(split)} ({reason}); name those of training and "
            "evaluation in problems.splits, or one of them to hold out a part of it"
        )
    if "config" in reason.lower() and isinstance(error, ValueError):
        return (
            f"problems.source={shown(f'{source}:{subset}' if subset else source)}: cannot be loaded so ({reason}); "
            "name one of its configurations behind a colon"
        )
    return (
        f"problems.source={shown(source)}: cannot be loaded ({reason}); allowed: {ALLOWED}; "
        'check the name and the network, or use a local copy or "generated"'
    )
