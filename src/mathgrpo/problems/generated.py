"""Endless grade-school word problems from reasoning-gym's gsm_symbolic, with worked solutions and sound splits.

Three sets that cannot overlap: training problems; held-out problems of the same templates, apart by question; and
problems of whole templates that training never sees. reasoning-gym seeds its item i with seed + i, so neighbouring
seeds repeat items: each set draws from its own far range, and questions are compared besides.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
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
_KEPT = ("question", "answer", "solution", "template")
_REVISION = 3
"""Raised whenever the same seed would give other problems, so that an old cache is not read."""


_HELDOUT, _TEMPLATES, _TRAIN = 1, 2, 3
"""The three sets; of a seed's range of items each begins far from the others."""


def generate_problem_sets(train_size: int, heldout_size: int, seed: int, max_value: int = 100) -> ProblemSets:
    """Return training, held-out and held-out-template problems; the same three for the same arguments.

    No number in a worked solution is larger than max_value. The held-out sets do not depend on train_size, so runs
    with more training problems are comparable.
    """
    heldout, templates = generate_heldout(heldout_size, seed, max_value)
    taken = {problem.id for problem in (*heldout, *templates)}
    train = _load_or_draw(_TRAIN, train_size, seed, max_value)
    kept = tuple(problem for problem in train if problem.id not in taken)
    note = f"generated: {len(train) - len(kept)} of {len(train)} training problems dropped because they are held out"
    return ProblemSets(train=kept, heldout=heldout, heldout_templates=templates, notes=(note,))


def generate_heldout(size: int, seed: int, max_value: int = 100) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return the held-out problems of known templates, and those of templates training never sees."""
    return _load_or_draw(_HELDOUT, size, seed, max_value), _load_or_draw(_TEMPLATES, size, seed, max_value)


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


def _load_or_draw(part: int, size: int, seed: int, max_value: int) -> tuple[Problem, ...]:
    """Return one of the three sets, from the cache where it was drawn before."""
    start, unseen = (10 * seed + part) * _RANGE, part == _TEMPLATES
    kind = f"{'unseen' if unseen else 'seen'}-{max_value}-{start}-{size}"
    path = cache_folder() / "generated" / f"{SOURCE}-{_generator_version()}-r{_REVISION}-{kind}.jsonl"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if len(rows) == size:
            return tuple(Problem(**row) for row in rows)
    problems = tuple(itertools.islice(_draw(start, max_value, unseen=unseen), size))
    kept = ({key: getattr(problem, key) for key in _KEPT} for problem in problems)
    keep(path, "".join(json.dumps(row) + "\n" for row in kept))
    return problems


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


def _draw(start: int, max_value: int, *, unseen: bool) -> Iterator[Problem]:
    """Yield different problems that pass the filter, of seen or unseen templates, from item `start` on, without end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of its dependencies, when Python first compiles them
        from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import GSMSymbolicDataset, GSMSymbolicDatasetConfig

    seen: set[str] = set()
    for chunk in itertools.count(start, _CHUNK):
        dataset = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=chunk, size=_CHUNK))
        for index, template in enumerate(dataset.task_indices):
            if (template in UNSEEN_TEMPLATES) == unseen:
                problem = _problem(template, dataset[index], max_value)
                if problem is not None and problem.id not in seen:
                    seen.add(problem.id)
                    yield problem


def _problem(template: int, item: dict[str, Any], max_value: int) -> Problem | None:
    """Return a clean problem, or None when its solution does not hold or is not small, or it is long."""
    question, answer = item["question"].removesuffix(_SUFFIX), clean_answer(item["answer"])
    steps = worked_steps(item["metadata"]["answer_cot"], item["answer"])
    if answer is None or Fraction(answer).denominator != 1 or len(question.split()) > MAX_WORDS:
        return None
    if steps is None or not is_small_arithmetic(steps, max_value):
        return None
    return Problem(question=question, answer=answer, solution=steps_text(steps), template=f"{SOURCE}/{template}")
