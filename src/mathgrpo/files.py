"""Files and folders that are there whole or not at all, and JSON in them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError, first_line, named


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, and make its folder.

    Raises: UserError if it cannot be written; an older version of the file is then untouched.
    """
    # A lone surrogate cannot be UTF-8; its backslash form is also its JSON escape, so JSON reads it back unchanged.
    data = text.encode("utf-8", "backslashreplace")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another {named('run.output_dir')}"
        ) from error


def append_whole(path: Path, data: bytes) -> None:
    """Append bytes to a file, all of them or none: what a full disk took of them is taken back.

    Raises: OSError.
    """
    with path.open("ab", buffering=0) as file:
        before, left = os.fstat(file.fileno()).st_size, memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when the block ends without an exception."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            remove_folder(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that, stopped half-way, no part of it is left under its name."""
    doomed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Tell what keeps a text from being read; the shell and standard input can bring bytes that are no text.

    Raises: UserError for what cannot be opened, and for what is not UTF-8.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{source}: is not UTF-8 text (character {error.start + 1}); write it as UTF-8") from error


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON with readable Unicode; NaN and infinities, which JSON does not know, are refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object a file holds.

    Raises: UserError in one line if the file is missing, unreadable or no JSON object.
    """
    try:
        return _json_object(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not a JSON object ({first_line(error)})") from error


def read_json_lines(path: Path, *, forgive_cut_end: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every line of a JSONL file; blank lines are skipped.

    forgive_cut_end: a last line without its newline that cannot be read is passed over: the writer was stopped there.
    Raises: UserError in one line with the line number if the file is missing or a line is no JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, _json_object(line)
                except ValueError as error:
                    if forgive_cut_end and not line.endswith(b"\n"):
                        return
                    raise UserError(f"{path}:{number}: not a JSON object ({first_line(error)})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _json_object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    return value
