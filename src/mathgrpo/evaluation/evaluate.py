"""From a policy and problems to graded completions, and to the files of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mathgrpo.answers import grade_completion
from mathgrpo.answers.side_by_side import side_by_side
from mathgrpo.errors import UserError
from mathgrpo.evaluation.records import ANSWER, Evaluation, EvaluationSettings, GradedCompletion, ProblemRecord
from mathgrpo.files import read_json_lines, read_json_object, to_json, write_atomically
from mathgrpo.types import Graded, Problem, RolloutGroup, Sampling

if TYPE_CHECKING:
    from pydantic import ValidationError

    from mathgrpo.formats import Format
    from mathgrpo.models import Policy
    from mathgrpo.rewards import RewardSuite
    from mathgrpo.rollout import Engine

ROWS_AT_ONCE = 256
"""Completions asked of the engine in one call: bounds memory, and paces the progress reports."""

Progress = Callable[[int, int], None]


class RewardFault(UserError):
    """A reward function failed on completions of an evaluation.

    Attributes:
        evaluation: what was evaluated until then; the completions that it failed on have the grader's verdict only.
    """

    def __init__(self, error: UserError, evaluation: Evaluation) -> None:
        super().__init__(str(error))
        self.evaluation = evaluation


def evaluate(
    engine: Engine,
    policy: Policy,
    problems: Sequence[Problem],
    fmt: Format,
    *,
    max_new_tokens: int,
    suite: RewardSuite | None = None,
    samples: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Return every problem's greedy completion and `samples` sampled ones, graded, in the order of the problems.

    Greedy runs at temperature 0; the samples use temperature, top_p and seed. The strict verdict reads the answer in
    the format, the flexible one anywhere. on_progress(done, total) counts completions and is called after each batch.
    suite: its rewards are evaluated too, and say what is correct where they are to (`RewardSuite.correct`).
    Raises: UserError if there are no problems; RewardFault, with what was evaluated, when a reward function fails.
    """
    if not problems:
        raise UserError("problems: there are none to evaluate on; give at least one")
    correct = ANSWER if suite is None or suite.correct is None else str(suite.correct)
    settings = EvaluationSettings(
        max_new_tokens, samples, temperature, top_p, seed, fmt.name, policy.name, engine.name, correct
    )
    total, done = len(problems) * (1 + samples), 0
    records: list[ProblemRecord] = []
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0.0, seed=seed)
    sampled = replace(greedy, temperature=temperature, top_p=top_p)

    def advance(completions: int) -> None:
        nonlocal done
        done += completions
        if on_progress is not None:
            on_progress(done, total)

    def keep(first: int, batch: Sequence[Problem], group_size: int, sampling: Sampling) -> None:
        drawn, fault = _graded(engine, policy, batch, fmt, suite, group_size, sampling)
        for i, (problem, graded) in enumerate(zip(batch, drawn, strict=True), first):
            if sampling is greedy:
                records.append(ProblemRecord(problem.id, problem.question, problem.answer, problem.template, graded[0]))
            else:
                records[i] = replace(records[i], samples=graded)
        if fault is not None:
            raise RewardFault(fault, Evaluation(tuple(records), settings)) from fault
        advance(group_size * len(batch))

    for start, batch in _batches(problems, ROWS_AT_ONCE):
        keep(start, batch, 1, greedy)
    for start, batch in _batches(problems, max(ROWS_AT_ONCE // samples, 1)) if samples else ():
        keep(start, batch, samples, sampled)
    return Evaluation(tuple(records), settings)


def _batches(problems: Sequence[Problem], size: int) -> Iterator[tuple[int, Sequence[Problem]]]:
    for start in range(0, len(problems), size):
        yield start, problems[start : start + size]


def _graded(
    engine: Engine, policy: Policy, problems: Sequence[Problem], fmt: Format, suite: RewardSuite | None,
    group_size: int, sampling: Sampling,
) -> tuple[list[tuple[GradedCompletion, ...]], UserError | None]:  # fmt: skip
    """Return drawn completions by problem, and why they have no rewards, if a reward function failed."""
    from mathgrpo.rollout.groups import reward_groups, sample_groups  # brings torch, which reading does not need

    groups, fault = sample_groups(engine, policy, problems, fmt, group_size, sampling), None
    if suite is not None:
        try:
            groups = reward_groups(groups, fmt, suite)
        except UserError as error:
            fault = error
    return side_by_side(lambda group: tuple(_completion(group, g, fmt) for g in range(group_size)), groups), fault


def graded_completion(group: RolloutGroup, g: int, fmt: Format) -> Graded:
    """Return what is said of a group's completion: its grade where it has one, else the grader's on its answer."""
    if group.grades:
        return group.grades[g]
    problem, opened = group.problem, group.prompt.opened
    return grade_completion(group.texts[g], problem.answer, fmt, question=problem.question, opened=opened)


def _completion(group: RolloutGroup, g: int, fmt: Format) -> GradedCompletion:
    text, completion = group.texts[g], group.completions[g]
    graded = graded_completion(group, g, fmt)
    return GradedCompletion(
        text, graded.answer, graded.verdict.outcome, graded.flexible_verdict.outcome, graded.format_strict,
        graded.format_soft, graded.worked, len(completion.ids), completion.finish_reason,
        graded.verdict.rule, graded.verdict.why, {name: values[g] for name, values in group.reward_parts.items()},
    )  # fmt: skip


EVALUATION_FOLDER = "eval"


def write_evaluation(evaluation: Evaluation, folder: Path, name: str) -> Path:
    """Return eval/<name>.json below the run folder, written together with eval/<name>.jsonl.

    The summary is written last: where it exists, the records are complete.
    Raises: UserError if the files cannot be written (a full disk, no permission); nothing half-written stays.
    """
    target = write_records(evaluation, folder, name).with_suffix(".json")
    summary = {"name": name, "settings": asdict(evaluation.settings)} | evaluation.summary()
    write_atomically(target, to_json(summary, indent=1) + "\n")
    return target


def write_records(evaluation: Evaluation, folder: Path, name: str) -> Path:
    """Return eval/<name>.jsonl below the run folder, written alone: of an evaluation that did not come to its end.

    Raises: UserError if it cannot be written.
    """
    target = folder / EVALUATION_FOLDER / f"{name}.jsonl"
    write_atomically(target, "".join(to_json(asdict(record)) + "\n" for record in evaluation.records))
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
