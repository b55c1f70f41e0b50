"""From a policy and problems to graded completions, and to the files of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mathgrpo.answers import grade_completion
from mathgrpo.answers.side_by_side import side_by_side
from mathgrpo.errors import UserError
from mathgrpo.evaluation.records import Evaluation, EvaluationSettings, GradedCompletion, ProblemRecord
from mathgrpo.files import read_json_lines, read_json_object, to_json, write_atomically
from mathgrpo.types import Problem, RolloutGroup, Sampling

if TYPE_CHECKING:
    from pydantic import ValidationError

    from mathgrpo.formats import Format
    from mathgrpo.models import Policy
    from mathgrpo.rollout import Engine

ROWS_AT_ONCE = 256
"""Completions asked of the engine in one call: bounds memory, and paces the progress reports."""

Progress = Callable[[int, int], None]


def evaluate(
    engine: Engine,
    policy: Policy,
    problems: Sequence[Problem],
    fmt: Format,
    *,
    max_new_tokens: int,
    samples: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Return every problem's greedy completion and `samples` sampled ones, graded, in the order of the problems.

    Greedy runs at temperature 0; the samples use temperature, top_p and seed. The strict verdict reads the answer in
    the format, the flexible one anywhere. on_progress(done, total) counts completions and is called after each batch.
    Raises: UserError if there are no problems.
    """
    if not problems:
        raise UserError("problems: there are none to evaluate on; give at least one")
    settings = EvaluationSettings(max_new_tokens, samples, temperature, top_p, seed, fmt.name, policy.name, engine.name)
    total, done = len(problems) * (1 + samples), 0
    records: list[ProblemRecord] = []
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0.0, seed=seed)
    sampled = replace(greedy, temperature=temperature, top_p=top_p)

    def advance(completions: int) -> None:
        nonlocal done
        done += completions
        if on_progress is not None:
            on_progress(done, total)

    for _, batch in _batches(problems, ROWS_AT_ONCE):
        for problem, (completion,) in zip(batch, _graded(engine, policy, batch, fmt, 1, greedy), strict=True):
            records.append(ProblemRecord(problem.id, problem.question, problem.answer, problem.template, completion))
        advance(len(batch))
    for start, batch in _batches(problems, max(ROWS_AT_ONCE // samples, 1)) if samples else ():
        for i, graded in enumerate(_graded(engine, policy, batch, fmt, samples, sampled), start):
            records[i] = replace(records[i], samples=graded)
        advance(samples * len(batch))
    return Evaluation(tuple(records), settings)


def _batches(problems: Sequence[Problem], size: int) -> Iterator[tuple[int, Sequence[Problem]]]:
    for start in range(0, len(problems), size):
        yield start, problems[start : start + size]


def _graded(
    engine: Engine, policy: Policy, problems: Sequence[Problem], fmt: Format, group_size: int, sampling: Sampling
) -> list[tuple[GradedCompletion, ...]]:
    from mathgrpo.rollout.groups import sample_groups  # brings torch, which reading evaluations does not need

    groups = sample_groups(engine, policy, problems, fmt, group_size, sampling)
    return side_by_side(lambda group: tuple(_grade(group, g, fmt) for g in range(group_size)), groups)


def _grade(group: RolloutGroup, g: int, fmt: Format) -> GradedCompletion:
    text, completion, problem = group.texts[g], group.completions[g], group.problem
    graded = grade_completion(text, problem.answer, fmt, question=problem.question, opened=group.prompt.opened)
    return GradedCompletion(
        text, graded.answer, graded.verdict.outcome, graded.flexible_verdict.outcome, graded.format_strict,
        graded.format_soft, graded.worked, len(completion.ids), completion.finish_reason,
        graded.verdict.rule, graded.verdict.why,
    )  # fmt: skip


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
