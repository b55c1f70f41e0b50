"""Rows from a hub dataset, or from a local folder laid out like one."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mathgrpo.errors import UserError
from mathgrpo.problems.rows import Row, shown
from mathgrpo.problems.table import numbered

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
        with _offline_if(not Path(source).is_dir() and not _is_reachable()):
            rows = numbered(datasets.load_dataset(source, subset or None, split=split))
    # Below load_dataset lie HTTP, file and Parquet libraries, each failing with exceptions of its own.
    except Exception as error:
        raise UserError(_message(source, subset, split, error)) from error
    if not rows:
        raise UserError(
            f"problems.source={shown(source)}: split {shown(split)} has no rows; "
            "set problems.train_split or problems.heldout_split"
        )
    return rows


def _message(source: str, subset: str, split: str, error: Exception) -> str:
    """Return one line that says what failed and what to do about it."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if "split" in reason.lower() and isinstance(error, ValueError):
        return (
            f"problems.source={shown(source)}: no split {shown(split)} ({reason}); set problems.train_split and "
            "problems.heldout_split, the same name for both to hold out a part of one split"
        )
    if "config" in reason.lower() and isinstance(error, ValueError):
        return (
            f"problems.subset={shown(subset)}: {shown(source)} cannot be loaded with it ({reason}); "
            "name one of its subsets"
        )
    return (
        f"problems.source={shown(source)}: cannot be loaded ({reason}); allowed: {ALLOWED}; "
        'check the name and the network, or use a local copy or "generated"'
    )


def _is_reachable(timeout_s: float = 5.0) -> bool:
    """Return whether the hub answers at all, whatever the status."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=timeout_s):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError as error:
        # A certificate this probe does not know may be known to the library: let that one decide.
        return isinstance(getattr(error, "reason", error), ssl.SSLError)


@contextmanager
def _offline_if(offline: bool) -> Iterator[None]:
    """Switch the hub libraries to their offline mode: a cached copy is found, and a missing one fails at once.

    Without it they repeat every request for half a minute and write each try to the terminal.
    """
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline or before[0]
    constants.HF_HUB_OFFLINE = offline or before[1]
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
