"""Evaluations as files of a run folder: eval/<name>.jsonl (a line a problem) and eval/<name>.json (summary)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError
from mathgrpo.evaluation.records import Evaluation, EvaluationSettings, ProblemRecord

EVALUATION_FOLDER = "eval"


def write_evaluation(evaluation: Evaluation, folder: Path, name: str) -> Path:
    """Return eval/<name>.json below the run folder, written together with eval/<name>.jsonl.

    The summary is written last: where it exists, the records are complete.
    Raises: UserError if the files cannot be written (a full disk, no permission); nothing half-written stays.
    """
    target = folder / EVALUATION_FOLDER / f"{name}.json"
    lines = [to_json(asdict(record)) for record in evaluation.records]
    write_atomically(target.with_suffix(".jsonl"), "\n".join(lines) + "\n")
    summary = {"name": name, "settings": asdict(evaluation.settings)} | evaluation.summary()
    write_atomically(target, to_json(summary, indent=1) + "\n")
    return target


def read_evaluation(folder: Path, name: str) -> Evaluation:
    """Return an evaluation as `write_evaluation` left it.

    Raises: UserError in one line that names the file, and the line of it that cannot be read.
    """
    from pydantic import TypeAdapter, ValidationError

    record_type, settings_type = TypeAdapter(ProblemRecord), TypeAdapter(EvaluationSettings)
    summary = read_json_object(folder / EVALUATION_FOLDER / f"{name}.json")
    path = folder / EVALUATION_FOLDER / f"{name}.jsonl"
    records = []
    for number, row in read_json_lines(path):
        try:
            records.append(record_type.validate_python(row))
        except ValidationError as error:
            raise UserError(f"{path}:{number}: not a problem record ({_reason(error)}); evaluate again") from error
    if len(records) != summary.get("problems"):
        raise UserError(
            f"{path}: {len(records)} problems where {name}.json counts {summary.get('problems')}; evaluate again"
        )
    try:
        return Evaluation(tuple(records), settings_type.validate_python(summary.get("settings")))
    except ValidationError as error:
        raise UserError(
            f"{path.with_suffix('.json')}: settings unreadable ({_reason(error)}); evaluate again"
        ) from error


def evaluation_names(folder: Path) -> list[str]:
    """Return the names of the finished evaluations below a run folder, sorted."""
    return sorted(path.stem for path in (folder / EVALUATION_FOLDER).glob("*.json"))


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
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another run.output_dir"
        ) from error


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON with readable Unicode; NaN and infinities, which JSON does not know, are refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object a file holds.

    Raises: UserError in one line if the file is missing, unreadable or no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({_reason(error)})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__} where an object is needed")
    return value


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
                    yield number, _json_row(line)
                except ValueError as error:
                    if forgive_cut_end and not line.endswith(b"\n"):
                        return
                    raise UserError(f"{path}:{number}: not a JSON object ({_reason(error)})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _json_row(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}")
    return row


def _reason(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error).partition("\n")[0]
