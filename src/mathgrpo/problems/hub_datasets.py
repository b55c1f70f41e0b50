"""Rows from a hub dataset, or from a local folder laid out like one."""

from __future__ import annotations

from pathlib import Path

from mathgrpo.errors import UserError
from mathgrpo.hub import offline_if_unreachable
from mathgrpo.problems.table import numbered
from mathgrpo.problems.table_rows import Row, shown

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
