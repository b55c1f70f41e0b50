"""Rows of a hub data set, or of a folder laid out like one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mathgrpo.errors import UserError
from mathgrpo.errors import named as name_of
from mathgrpo.hub import offline_if_unreachable
from mathgrpo.problems.table import ALLOWED, Tables, numbered
from mathgrpo.problems.table_rows import Row, shown

Found = TypeVar("Found")


def hub_rows(source: str, subset: str, split: str) -> list[Row]:
    """Return all rows of one split of a dataset.

    Args:
        source: hub id, or path of a local folder in hub layout, or as the datasets library saves one.
        subset: configuration name, or "" for the only one.

    Raises:
        UserError: it cannot be loaded (no network, no such dataset, subset or split) or is empty.
    """
    rows = _read(source, subset, split, lambda loaded: numbered(_of_split(loaded, split)))
    if not rows:
        raise UserError(
            f"problems.source={shown(source)}: split {shown(split)} has no rows; name another in problems.splits"
        )
    return rows


def hub_tables(source: str, subset: str) -> Tables:
    """Return the rows of every split of a dataset."""
    return _read(source, subset, "", lambda loaded: {name: numbered(rows) for name, rows in _splits(loaded).items()})


def _read(source: str, subset: str, split: str, take: Callable[[Any], Found]) -> Found:
    """Return what is taken of a loaded dataset.

    Raises: UserError when it cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"problems.source={shown(source)}: hub datasets need the datasets library; "
            "pip install datasets, or use a JSONL file"
        ) from error
    folder = Path(source)
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return take(datasets.load_from_disk(source))
        with offline_if_unreachable(not folder.is_dir()):
            return take(datasets.load_dataset(source, subset or None, split=split or None))
    # Below load_dataset lie HTTP, file and Parquet libraries, each failing with exceptions of its own.
    except Exception as error:
        raise UserError(_message(source, subset, split, error)) from error


def _splits(loaded: Any) -> dict[str, Any]:
    """Return the splits of what was loaded; one table is the split "train"."""
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _of_split(loaded: Any, split: str) -> Any:
    """Return the rows of a split; what was loaded may be just these.

    Raises: ValueError when there is none.
    """
    if not isinstance(loaded, dict):
        return loaded
    if split not in loaded:
        raise ValueError(f'Unknown split "{split}". Should be one of {list(loaded)}.')
    return loaded[split]


def _message(source: str, subset: str, split: str, error: Exception) -> str:
    """Return one line that says what failed and what to do about it."""
    reason = " ".join(str(error).split())
    brief = reason[:200] or type(error).__name__
    named, remedy = source, f'allowed: {ALLOWED}; check the name and the network, or use a local copy or "generated"'
    said = f"cannot be loaded ({brief})"
    there = _listed(reason)
    if "split" in reason.lower() and isinstance(error, ValueError):
        said, remedy = f"no split {shown(split)}", split_remedy(there)
        said += "" if there else f" ({brief})"
    elif "config" in reason.lower() and isinstance(error, ValueError):
        named = f"{source}:{subset}" if subset else source
        said = f"{'no configuration ' + shown(subset) if subset else 'has several configurations'}"
        said += f": {', '.join(there)}" if there else f" ({brief})"
        remedy = f"name one behind a colon, as in {source}:{there[0]}" if there else "name one behind a colon"
    return f"problems.source={shown(named)}: {said}; {remedy}"


def split_remedy(there: list[str]) -> str:
    """Return how to name the splits that there are, as it can be pasted."""
    if not there:
        return "name those of training and evaluation in problems.splits, or one of them to hold out a part of it"
    chosen = f'["{there[0]}"]' if len(there) == 1 else f'["{there[0]}", "{there[1]}"]'
    option = name_of("problems.splits")
    if option.startswith("--"):
        return f"splits there: {', '.join(there)}; write {option} {shlex.quote(there[0])}"
    held = ", which holds out a part of it" if len(there) == 1 else ""
    return f"splits there: {', '.join(there)}; write --set {shlex.quote(f'problems.splits={chosen}')}{held}"


def _listed(reason: str) -> list[str]:
    """Return the names that a message of the datasets library lists in brackets."""
    found = re.search(r"\[([^\[\]]*)\]", reason)
    return re.findall(r"['\"]([^'\"]+)['\"]", found[1]) if found else []
