"""The tables in one JSON value: a list of rows, a list under a name, splits by name, columns by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mathgrpo.problems.cells import is_conversation
from mathgrpo.problems.known_columns import names_a_question
from mathgrpo.problems.table_rows import Row


def is_json(text: str) -> bool:
    """Return whether a text is one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parsed(text: str, place: str) -> Any:
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


def object_row(place: str, value: Any) -> Row:
    """Return the row of a parsed value: a JSON object, or the turns of a conversation, named by their places."""
    if is_conversation(value):
        return Row(place, {str(turn): said for turn, said in enumerate(value)})
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f'{place} is a {kind}, not an object such as {{"question": …, "answer": …}}')
    return Row(place, value)


def tables_of(value: Any) -> dict[str, list[Row]]:
    """Return every split of a JSON value by its name, "" for the rows of a value without splits.

    Read are a list of objects; an object with such a list under a name, whatever else stands beside it
    (`{"version": 1, "data": [...]}`); one with several, which are the splits (`{"train": [...], "test": [...]}`);
    columns (`{"question": [...], "answer": [...]}`, or with row names, as pandas writes them); and a single row.

    Raises: ValueError when it is none of these.

    Example:
        >>> {name: len(rows) for name, rows in tables_of({"train": [{"q": 1}], "test": [{"q": 2}, {"q": 3}]}).items()}
        {'train': 1, 'test': 2}
    """
    if isinstance(value, list):
        value = [value] if is_conversation(value) else value
        return {"": [object_row(f"row {number}", each) for number, each in enumerate(value, start=1)]}
    if not isinstance(value, dict):
        raise ValueError(f"the file is a JSON {type(value).__name__}, not a list of objects")
    rows = _from_columns(value)
    if rows is not None or names_a_question(value):
        return tables_of([value] if rows is None else rows)
    tables = {name: found for name, each in value.items() if (found := _rows_in(each))}
    if len(tables) == 1:
        return {"": next(iter(tables.values()))}
    return tables or tables_of([value])


def _rows_in(value: Any) -> list[Row]:
    """Return the rows of what stands under a name; [] when it is no table."""
    if isinstance(value, dict):
        return _rows_in(_from_columns(value))
    if not isinstance(value, list) or not value or is_conversation(value):
        return []
    if not all(isinstance(each, dict) or is_conversation(each) for each in value):
        return []
    return tables_of(value)[""]


def _from_columns(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of an object of columns (lists of one length, or objects of one set of keys) or of named rows."""
    columns = list(value.values())
    if not columns:
        return None
    if all(isinstance(column, list) for column in columns) and len({len(column) for column in columns}) == 1:
        is_column = names_a_question(value) and not is_conversation(columns[0])
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)] if is_column else None
    if not all(isinstance(column, dict) for column in columns):
        return None
    if all(names_a_question(column) and not _lists(column) for column in columns):
        return columns
    if names_a_question(value) and len({tuple(column) for column in columns}) == 1:
        return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    return None


def _lists(columns: Mapping[str, Any]) -> bool:
    return all(isinstance(column, list) for column in columns.values())
