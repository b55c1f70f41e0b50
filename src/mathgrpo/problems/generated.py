"""Endless grade-school word problems from reasoning-gym's gsm_symbolic, with worked solutions and sound splits.

Three sets that cannot overlap: training problems; held-out problems of the same templates, apart by question; and
problems of whole templates that training never sees. reasoning-gym seeds its item i with seed + i, so neighbouring
seeds repeat items: each set draws from its own far range, and questions are compared besides.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mathgrpo.arithmetic import Operation
from mathgrpo.cache import cache_folder, keep
from mathgrpo.errors import UserError
from mathgrpo.problems.sets import ProblemSets
from mathgrpo.problems.worked import clean_answer, steps_text, worked_steps
from mathgrpo.types import Problem

SOURCE = "gsm_symbolic"
UNSEEN_TEMPLATES = frozenset({14, 31, 39, 48, 58, 62, 78, 82})
"""gsm_symbolic template numbers that only the second held-out set uses: short ones, of all four operations."""
MAX_STEPS = 4
MAX_WORDS = 60
_SUFFIX = " Give the result as your final answer. Do not include units."
_RANGE = 100_000_000
_CHUNK = 20_000
_REVISION = 3
"""Raised whenever the same seed would give other problems, so that an old cache is not read."""


@dataclass(frozen=True, slots=True)
class _Draw:
    """Which items to draw: from `start` on, with numbers up to max_value, of seen or unseen templates."""

    start: int
    max_value: int
    unseen: bool


def generate_problem_sets(train_size: int, heldout_size: int, seed: int, max_value: int = 100) -> ProblemSets:
    """Return training, held-out and held-out-template problems; the same three for the same arguments.

    No number in a worked solution is larger than max_value. The held-out sets do not depend on train_size, so runs
    with more training problems are comparable.
    """
    heldout, templates = generate_heldout(heldout_size, seed, max_value)
    taken = {problem.id for problem in (*heldout, *templates)}
    train = _load_or_draw(_Draw(_start(seed, 3), max_value, unseen=False), train_size)
    kept = tuple(problem for problem in train if problem.id not in taken)
    note = f"generated: {len(train) - len(kept)} of {len(train)} training problems dropped because they are held out"
    return ProblemSets(train=kept, heldout=heldout, heldout_templates=templates, notes=(note,))


def generate_heldout(size: int, seed: int, max_value: int = 100) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return the held-out problems of known templates, and those of templates training never sees."""
    known = _load_or_draw(_Draw(_start(seed, 1), max_value, unseen=False), size)
    return known, _load_or_draw(_Draw(_start(seed, 2), max_value, unseen=True), size)


def _start(seed: int, part: int) -> int:
    """Return the first reasoning-gym seed of a set; the sets' ranges are far apart."""
    return (10 * seed + part) * _RANGE


def is_small_arithmetic(steps: tuple[Operation, ...], max_value: int) -> bool:
    """Return whether a small model has a fair chance: few steps, values 0 to max_value, one easy operand in * and /."""
    return len(steps) <= MAX_STEPS and all(_is_small(step, max_value) for step in steps)


def _is_small(step: Operation, max_value: int) -> bool:
    values = (step.left, step.right, step.result)
    if min(values) < 0 or max(values) > max_value or any((value * 100).denominator != 1 for value in values):
        return False
    if step.sign == "*":
        low, high = sorted((step.left, step.right))
        return low <= 12 or low % 10 == 0 or high % 10 == 0
    if step.sign == "/":
        return step.right <= 12 or step.result <= 12 or step.right % 10 == 0
    return True


def _load_or_draw(draw: _Draw, size: int) -> tuple[Problem, ...]:
    path = _cache_path(draw, size)
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if len(rows) == size:
            return tuple(Problem(**row) for row in rows)
    problems = tuple(_draw_problems(draw, size))
    keep(path, "".join(json.dumps(_row(problem)) + "\n" for problem in problems))
    return problems


def _row(problem: Problem) -> dict[str, Any]:
    return {key: getattr(problem, key) for key in ("question", "answer", "solution", "template")}


def _cache_path(draw: _Draw, size: int) -> Path:
    kind = "unseen" if draw.unseen else "seen"
    return (
        cache_folder()
        / "generated"
        / f"{SOURCE}-{_generator_version()}-r{_REVISION}-{kind}-{draw.max_value}-{draw.start}-{size}.jsonl"
    )


def _generator_version() -> str:
    """Return reasoning-gym's version: another one may give other problems for the same seed.

    Raises: UserError where it is not installed.
    """
    try:
        return version("reasoning-gym")
    except PackageNotFoundError:
        raise UserError(
            "problems.source=generated: reasoning-gym, which generates them, is not installed; pip install "
            "reasoning-gym, or name a file or folder of problems with --set problems.source=PATH"
        ) from None


def _draw_problems(draw: _Draw, size: int) -> Iterator[Problem]:
    """Yield `size` different problems that pass the filter."""
    seen: set[str] = set()
    for item in _items(draw):
        problem = _problem(item, draw.max_value)
        if problem is not None and problem.id not in seen:
            seen.add(problem.id)
            yield problem
            if len(seen) == size:
                return


def _items(draw: _Draw) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (template number, item) without end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of its dependencies, when Python first compiles them
        from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import GSMSymbolicDataset, GSMSymbolicDatasetConfig

    start = draw.start
    while True:
        dataset = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=start, size=_CHUNK))
        for index, template in enumerate(dataset.task_indices):
            if (template in UNSEEN_TEMPLATES) == draw.unseen:
                yield template, dataset[index]
        start += _CHUNK


def _problem(numbered: tuple[int, dict[str, Any]], max_value: int) -> Problem | None:
    """Return a clean problem, or None when its solution does not hold or is not small, or it is long."""
    template, item = numbered
    answer = clean_answer(item["answer"])
    steps = worked_steps(item["metadata"]["answer_cot"], item["answer"])
    if (
        answer is None
        or Fraction(answer).denominator != 1
        or steps is None
        or not is_small_arithmetic(steps, max_value)
    ):
        return None
    question = item["question"].removesuffix(_SUFFIX)
    if len(question.split()) > MAX_WORDS:
        return None
    return Problem(question=question, answer=answer, solution=steps_text(steps), template=f"{SOURCE}/{template}")
