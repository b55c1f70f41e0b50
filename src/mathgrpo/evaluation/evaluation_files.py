"""Evaluations as files of a run folder: eval/<name>.jsonl (a line a problem) and eval/<name>.json (summary)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mathgrpo.errors import UserError
from mathgrpo.evaluation.records import Evaluation, EvaluationSettings, ProblemRecord
from mathgrpo.files import read_json_lines, read_json_object, to_json, write_atomically

if TYPE_CHECKING:
    from pydantic import ValidationError

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
            reason = validation_reason(error)
            raise UserError(f"{path}:{number}: not a problem record ({reason}); evaluate again") from error
    if len(records) != summary.get("problems"):
        raise UserError(
            f"{path}: {len(records)} problems where {name}.json counts {summary.get('problems')}; evaluate again"
        )
    try:
        return Evaluation(tuple(records), settings_type.validate_python(summary.get("settings")))
    except ValidationError as error:
        raise UserError(
            f"{path.with_suffix('.json')}: settings unreadable ({validation_reason(error)}); evaluate again"
        ) from error


def evaluation_names(folder: Path) -> list[str]:
    """Return the names of the finished evaluations below a run folder, sorted."""
    return sorted(path.stem for path in (folder / EVALUATION_FOLDER).glob("*.json"))


def validation_reason(error: ValidationError) -> str:
    """Return what pydantic found wrong first, and where."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
