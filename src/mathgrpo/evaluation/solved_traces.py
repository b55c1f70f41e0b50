"""Graded reasoning traces: sampled completions of problems with known answers, kept line by line in a JSONL file.

The file is its own record of progress. Problems are taken in a fixed order and their lines written together, so what
comes after the last problem in the file is still to do; draws are keyed by problem and sample, so what is drawn again
is the same and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mathgrpo.answers.side_by_side import side_by_side
from mathgrpo.errors import UserError
from mathgrpo.evaluation.evaluate import graded_completion
from mathgrpo.files import append_whole, read_json_lines, to_json
from mathgrpo.formats import Format
from mathgrpo.models import Policy
from mathgrpo.rewards import RewardSuite
from mathgrpo.rollout import Engine, sample_groups
from mathgrpo.rollout.groups import reward_groups
from mathgrpo.types import Problem, RolloutGroup, Sampling

ROWS_AT_ONCE = 256
"""Completions asked of the engine in one call: bounds memory, and how long Ctrl-C waits."""

Keep = Literal["correct", "all"]
_BEGINNING = b'{"question": '


@dataclass(slots=True)
class TraceCounts:
    """What became of the completions of one call; `drawn` = `written` + `repeated` + those not kept."""

    drawn: int = 0
    correct: int = 0
    written: int = 0
    repeated: int = 0


class TraceFile:
    """A JSONL file of traces that is appended to, whole lines at a time.

    A last line that was cut short (the writer was killed) is removed.
    Raises: UserError when the file cannot be read or written, or holds something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self.settings = path, settings
        self._texts: set[tuple[str, str]] = set()
        self._last = ""
        if path.exists():
            _drop_cut_end(path)
            for number, row in read_json_lines(path):
                self._note(number, row)

    def todo(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Return the problems from the last one that these settings have lines of in the file; all without any."""
        start = max((i for i, problem in enumerate(problems) if problem.question == self._last), default=0)
        return problems[start:]

    def append(self, rows: Sequence[dict[str, Any]]) -> int:
        """Append the rows whose text the file does not have for their question; return how many those are."""
        new = []
        for row in rows:
            key = (row["question"], row["completion"])
            if key not in self._texts:
                self._texts.add(key)
                new.append(row)
        data = "".join(to_json(row) + "\n" for row in new).encode("utf-8", "backslashreplace")
        if not data:
            return 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_whole(self._path, data)
        except OSError as error:
            raise UserError(
                f"--jsonl {self._path}: cannot be written ({error.strerror}); the same command goes on once it can"
            ) from error
        return len(new)

    def _note(self, number: int, row: dict[str, Any]) -> None:
        if not isinstance(row.get("question"), str) or not isinstance(row.get("completion"), str):
            raise UserError(f"--jsonl {self._path}: line {number} is not a trace; give a file of its own")
        self._texts.add((row["question"], row["completion"]))
        if row.get("settings") == self.settings:
            self._last = row["question"]


def write_traces(
    engine: Engine,
    policy: Policy,
    problems: Sequence[Problem],
    fmt: Format,
    file: TraceFile,
    *,
    samples: int,
    sampling: Sampling,
    keep: Keep,
    on_batch: Callable[[int, int], None],
    suite: RewardSuite | None = None,
) -> TraceCounts:
    """Sample completions of every problem not done yet, grade them, append those to keep; return the counts.

    on_batch(problems done, all problems) is called before the first batch and after each; what it raises ends the
    work with the file in order.
    suite: says what is correct where a reward is to.
    Raises: UserError when a reward function fails; what was written before stays.
    """
    todo, counts = file.todo(problems), TraceCounts()
    done, size = len(problems) - len(todo), max(1, ROWS_AT_ONCE // samples)
    on_batch(done, len(problems))
    for start in range(0, len(todo), size):
        groups = sample_groups(engine, policy, todo[start : start + size], fmt, samples, sampling)
        groups = reward_groups(groups, fmt, suite) if suite is not None and suite.correct is not None else groups
        of_groups = side_by_side(lambda group: trace_rows(group, policy, fmt, file.settings), groups)
        rows = [row for rows in of_groups for row in rows]
        right = [row for row in rows if row["verdict"] == "correct"]
        kept = right if keep == "correct" else rows
        written = file.append(kept)
        counts.drawn, counts.correct = counts.drawn + len(rows), counts.correct + len(right)
        counts.written, counts.repeated = counts.written + written, counts.repeated + len(kept) - written
        done += len(groups)
        on_batch(done, len(problems))
    return counts


def trace_rows(group: RolloutGroup, policy: Policy, fmt: Format, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each completion of a problem: "answer" is the gold one, "predicted" the model's.

    Where a reward decided (`settings` names it), the problem's further columns go along, for others to judge by it.
    """
    rows = []
    for sample, (completion, text) in enumerate(zip(group.completions, group.texts, strict=True)):
        problem, graded = group.problem, graded_completion(group, sample, fmt)
        row = {
            "question": problem.question, "answer": problem.answer, "reasoning": graded.reasoning,
            "completion": text, "verdict": graded.verdict, "predicted": graded.answer, "sample": sample,
            "tokens": len(completion.ids), "finish_reason": completion.finish_reason, "model": policy.name,
            "seed": settings["seed"], "settings": settings,
        }  # fmt: skip
        further = problem.columns if "correct" in settings else {}
        rows.append(row | {key: value for key, value in further.items() if key not in row and _is_json(value)})
    return rows


def _is_json(value: Any) -> bool:
    try:
        return bool(to_json(value))
    except (TypeError, ValueError):  # such as a date of a Parquet file
        return False


def _drop_cut_end(path: Path) -> None:
    """Remove a trace at the end of the file that was not written to its end; anything else stays."""
    try:
        data = path.read_bytes()
        cut = data[data.rfind(b"\n") + 1 :]
        if cut and (cut.startswith(_BEGINNING) or _BEGINNING.startswith(cut)):
            with path.open("r+b") as file:
                file.truncate(len(data) - len(cut))
    except OSError as error:
        raise UserError(f"--jsonl {path}: cannot be read ({error.strerror}); choose another file") from error
