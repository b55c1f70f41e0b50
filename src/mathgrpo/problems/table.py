"""Rows from a file: JSONL, JSON, CSV, Parquet, Arrow, packed or not."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from mathgrpo.errors import UserError, first_line
from mathgrpo.problems.cells import is_conversation
from mathgrpo.problems.json_shapes import is_json, object_row, parsed, tables_of
from mathgrpo.problems.table_rows import Row, shown

Tables = dict[str, list[Row]]
"""Name of each split in a file -> its rows; "" for the one table of a file without splits."""


def read_tables(path: Path) -> Tables:
    """Return all rows of a file by split, read by its suffix; only a JSON object can hold several splits.

    Raises:
        UserError: the file is missing, unreadable, of another kind, broken (the line is named) or has no rows.
    """
    reader = READERS.get(kind_of(path))
    try:
        if reader is None:
            raise ValueError(f"not a {', '.join(READERS)} file; convert it to one of them")
        tables = reader(path)
        if any(tables.values()):
            return tables
        complaint = "the file has no rows; give one with at least one problem"
    except FileNotFoundError:
        complaint = "no such file; check the path"
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile):
        complaint = f"not readable as {path.suffix} (broken or cut off); fetch or pack it again"
    except OSError as error:
        complaint = f"cannot be read ({error.strerror or error}); check the file"
    except UnicodeDecodeError:
        complaint = f"line {_undecodable_line(path)} is not UTF-8; save the file as UTF-8"
    except ValueError as error:
        complaint = str(error)
    raise UserError(f"problems.source={shown(path)}: {complaint}")


OPENERS: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Suffix of a packed file -> what opens it."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def kind_of(path: Path) -> str:
    """Return the suffix that says what a file holds, in lower case and without that of its packing.

    Example:
        >>> kind_of(Path("train.JSONL")), kind_of(Path("train.csv.gz"))
        ('.jsonl', '.csv')
    """
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in OPENERS else suffix


def split_of(path: Path) -> tuple[str, bool]:
    """Return the split that a file in a folder holds, and whether the file is one shard of it.

    Example:
        >>> split_of(Path("test.jsonl.gz")), split_of(Path("train-00001-of-00002.parquet"))
        (('test', False), ('train', True))
    """
    stem = Path(path.stem).stem if path.suffix.lower() in OPENERS else path.stem
    split = _SHARD.sub("", stem)
    return split, split != stem


def _open(path: Path, mode: str = "rt") -> IO[Any]:
    """Return a file opened for reading, unpacked; a byte order mark is passed over."""
    text = {} if "b" in mode else {"encoding": "utf-8-sig", "newline": ""}
    opener: Callable[..., IO[Any]] = OPENERS.get(path.suffix.lower(), open)
    return opener(path, mode, **text)


def _undecodable_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8 (a decoding error only knows its place in a buffer)."""
    with _open(path, "rb") as lines:
        return next(
            (number for number, line in enumerate(lines, start=1) if line.decode("utf-8", "ignore").encode() != line), 1
        )


def _read_jsonl(path: Path) -> Tables:
    """Return the rows of a file with one JSON object a line; empty lines are skipped.

    A file that is one JSON value instead, whatever its name, is read as that.
    """
    with _open(path) as lines:
        places = [(f"line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(places) > 1 and places[0][1].lstrip()[0] in "[{" and not is_json(places[0][1]):
        text = "".join(line for _, line in places)
        if is_json(text):
            return tables_of(parsed(text, "the file"))
    values = [(place, parsed(line, place)) for place, line in places]
    if len(values) == 1 and isinstance(values[0][1], list) and not is_conversation(values[0][1]):
        return tables_of(values[0][1])
    return {"": [object_row(place, value) for place, value in values]}


def _read_json(path: Path) -> Tables:
    """Return the rows of a file that is one JSON value: a list of objects, or an object that holds such lists."""
    with _open(path) as file:
        text = file.read()
    if not text.strip():
        return {"": []}
    first = next(line for line in text.splitlines() if line.strip())
    if is_json(first) and not is_json(text):  # JSON Lines by another name
        return _read_jsonl(path)
    return tables_of(parsed(text, "the file"))


SEPARATORS = ",;\t|"


def _read_csv(path: Path) -> Tables:
    """Return the rows of a table with a header line; the separator is the one that the header has most of."""
    with _open(path) as lines:
        try:
            header = re.sub(r'"[^"]*"', "", lines.readline())
            lines.seek(0)
            separator = "\t" if kind_of(path) == ".tsv" else max(SEPARATORS, key=header.count)
            reader = csv.DictReader(lines, delimiter=separator, skipinitialspace=separator != "\t")
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            rows = numbered(reader)
        except csv.Error as error:
            raise ValueError(f"not readable as CSV ({error}); check quotes and commas") from error
    for row in rows:
        if None in row.values:  # where DictReader files the cells beyond the header
            raise ValueError(f"{row.place} has more cells than the header; put text that holds a comma in quotes")
    return {"": rows}


def _read_parquet(path: Path) -> Tables:
    """Return the rows of a Parquet file."""
    import pyarrow.parquet as parquet

    return {"": numbered(parquet.ParquetFile(path).read().to_pylist())}


def _read_arrow(path: Path) -> Tables:
    """Return the rows of an Arrow file, written as a stream (the datasets library does) or with an index (Feather)."""
    import pyarrow
    from pyarrow import ipc

    with pyarrow.memory_map(str(path)) as source:
        try:
            table = ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            table = ipc.open_file(source).read_all()
        return {"": numbered(table.to_pylist())}


def _by_pyarrow(read: Callable[[Path], Tables], name: str) -> Callable[[Path], Tables]:
    """Return a reader whose failures say what to do."""

    def reader(path: Path) -> Tables:
        try:
            import pyarrow
        except ImportError as error:
            raise ValueError(f"reading {name} needs pyarrow; pip install pyarrow, or use JSONL") from error
        try:
            return read(path)
        except pyarrow.ArrowException as error:
            raise ValueError(f"not readable as {name} ({first_line(error, 120)}); write the file again") from error

    return reader


def numbered(values: Iterable[Any]) -> list[Row]:
    """Return rows counted from 1."""
    return [Row(f"row {number}", row) for number, row in enumerate(values, start=1)]


READERS: dict[str, Callable[[Path], Tables]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _by_pyarrow(_read_parquet, "Parquet"),
    ".arrow": _by_pyarrow(_read_arrow, "Arrow"),
}
ALLOWED = (
    f'"generated", a path to a {", ".join(list(READERS)[:-1])} or {list(READERS)[-1]} file or folder, '
    "or a hub id such as openai/gsm8k"
)
