"""A run folder read for its report: whatever is there of a run that ended, goes on, or was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathgrpo.config.load_recipe import read_toml
from mathgrpo.errors import UserError
from mathgrpo.evaluation import Evaluation, evaluation_names, read_evaluation
from mathgrpo.evaluation.evaluate import validation_reason
from mathgrpo.evaluation.records import outcome_of_file
from mathgrpo.files import read_json_lines, read_json_object

MOST_GROUPS = 400
"""Groups held in memory for the page; of a longer run, evenly spread ones."""
PER_STEP = 4
"""Groups of one step that stay when not all groups can: many steps tell more than many groups of few."""

Metrics = Mapping[str, Mapping[int, float]]
"""Metric name -> step -> value, steps ascending."""


@dataclass(frozen=True, slots=True)
class LoggedCompletion:
    """One completion of a logged group."""

    text: str
    tokens: int
    finish_reason: str
    verdict: str
    reward: float | None
    reward_parts: Mapping[str, float | None]
    advantage: float
    read: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", outcome_of_file(self.verdict))


@dataclass(frozen=True, slots=True)
class LoggedGroup:
    """One line of rollouts.jsonl: all completions of one problem in one step."""

    step: int
    problem_id: str
    question: str
    gold: str
    completions: tuple[LoggedCompletion, ...]

    @property
    def rewards(self) -> list[float]:
        """The rewards that there are."""
        return [completion.reward for completion in self.completions if completion.reward is not None]

    @property
    def spread(self) -> bool:
        """True if the rewards differ, so that the group teaches something."""
        return len(set(self.rewards)) > 1

    @property
    def parts(self) -> list[str]:
        """The names of the reward's parts."""
        return list(dict.fromkeys(name for completion in self.completions for name in completion.reward_parts))


@dataclass(frozen=True, slots=True)
class RunData:
    """What a report is made of; everything but the recipe may still be missing.

    Attributes:
        name: the run's name.
        recipe_text, recipe: config.toml as text and parsed.
        info: run.json.
        groups, groups_logged: the logged groups held here, and how many there are in the file.
        evaluations: name -> evaluation.
    """

    name: str
    recipe_text: str
    recipe: Mapping[str, Any]
    info: Mapping[str, Any]
    metrics: Metrics
    groups: tuple[LoggedGroup, ...]
    groups_logged: int
    evaluations: Mapping[str, Evaluation]

    @property
    def last_step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return max((step for points in self.metrics.values() for step in points), default=0)

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the recipe; an empty one where there is none."""
        section = self.recipe.get(name)
        return section if isinstance(section, Mapping) else {}


def load_run(folder: Path) -> RunData:
    """Return everything a report needs of a run folder.

    Raises: UserError in one line if this is no run folder or one of its files is corrupt; a last line that was cut
    while it was written is passed over.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a run, such as runs/NAME")
    path = folder / "config.toml"
    if not path.exists():
        raise UserError(f"{path}: there is none, so {folder} is no run folder; give one that mathgrpo train made")
    recipe = read_toml(path)
    info = read_json_object(folder / "run.json") if (folder / "run.json").exists() else {}
    groups, logged = _groups(folder / "rollouts.jsonl")
    name = info.get("name") if isinstance(info.get("name"), str) else ""
    return RunData(
        name or folder.resolve().name, path.read_text(encoding="utf-8"), recipe, info,
        metrics=_metrics(folder / "metrics.jsonl"), groups=groups, groups_logged=logged,
        evaluations={name: read_evaluation(folder, name) for name in evaluation_names(folder)},
    )  # fmt: skip


def _metrics(path: Path) -> Metrics:
    """Return each metric by step. A resumed run repeats steps: the later line counts."""
    rows: dict[int, dict[str, Any]] = {}
    for line, row in read_json_lines(path, forgive_cut_end=True) if path.exists() else ():
        rows[_step(path, line, row)] = row
    columns: dict[str, dict[int, float]] = {}
    for step in sorted(rows):
        for name, value in rows[step].items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                columns.setdefault(name, {})[step] = float(value)
    return columns


def _step(path: Path, line: int, row: Mapping[str, Any]) -> int:
    step = row.get("step")
    if not isinstance(step, int):
        raise UserError(f"{path}:{line}: step={step!r} is not a whole number; every line needs one")
    return step


def _groups(path: Path) -> tuple[tuple[LoggedGroup, ...], int]:
    """Return groups of evenly spread steps, in step order, and how many groups were logged."""
    from pydantic import TypeAdapter, ValidationError

    if not path.exists():
        return (), 0
    # Two passes: a long run's rollouts do not fit in memory, its line numbers do. Resumed runs repeat steps: last wins.
    lines: dict[tuple[int, str], int] = {}
    for line, row in read_json_lines(path, forgive_cut_end=True):
        lines[_step(path, line, row), str(row.get("problem_id"))] = line
    steps, numbers = [step for step, _ in lines], list(lines.values())
    wanted = {numbers[i] for i in spread_groups(steps, MOST_GROUPS)}
    group_type, groups = TypeAdapter(LoggedGroup), []
    for line, row in read_json_lines(path, forgive_cut_end=True):
        if line in wanted:
            try:
                groups.append(group_type.validate_python(row))
            except ValidationError as error:
                reason = validation_reason(error)
                raise UserError(f"{path}:{line}: not a group of completions ({reason})") from error
    return tuple(sorted(groups, key=lambda group: group.step)), len(lines)


def spread_groups(steps: Sequence[int], most: int) -> list[int]:
    """Return the places of at most `most` groups, ascending, that show the whole run.

    steps: the step of each group. All if there is room; else the first PER_STEP groups of every step, and of the steps
    the first, the last and as many as there is room for evenly between. At least one group stays.

    Example:
        >>> spread_groups([1, 1, 2, 2, 3, 3, 4, 4, 5, 5], 6)
        [0, 1, 4, 5, 8, 9]
    """
    if len(steps) <= most:
        return list(range(len(steps)))
    places: dict[int, list[int]] = {}
    for place, step in enumerate(steps):
        places.setdefault(step, []).append(place)
    per_step = min(PER_STEP, most, max(len(same) for same in places.values()))
    distinct = sorted(places)
    keep = max(min(most // per_step, len(distinct)), 1)
    chosen = [distinct[round(i * (len(distinct) - 1) / (keep - 1))] for i in range(keep)] if keep > 1 else distinct[-1:]
    return sorted(place for step in chosen for place in places[step][:per_step])
