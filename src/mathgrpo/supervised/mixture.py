"""What a supervised model reads: worked solutions, quick guesses and drills, mixed by the stage's shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from mathgrpo.config.sft_recipe import StageSection
from mathgrpo.formats import Format
from mathgrpo.types import Problem

GUESS = "A quick guess."
"""The reasoning of an example that answers without working."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the completion to learn for it."""

    question: str
    completion: str


def examples(problems: Sequence[Problem], fmt: Format, stage: StageSection, seed: int) -> Iterator[Example]:
    """Yield training examples without end: the problems in a new order each epoch, drills strewn in.

    Problems without a worked solution are skipped; the caller checks that some have one.
    """
    rng = Random(seed)
    solved = [problem for problem in problems if problem.solution]
    pool = drill_pool(solved)
    while True:
        for problem in rng.sample(solved, len(solved)):
            while pool and rng.random() < stage.drills:
                yield worked(drill(pool, rng), fmt)
            yield guessed(problem, fmt) if rng.random() < guess_share(problem, stage) else worked(problem, fmt)


def guess_share(problem: Problem, stage: StageSection) -> float:
    """Return the chance that this problem is answered by a quick guess: people skip the working of what looks short."""
    return stage.guesses_short if len(problem.question.split()) <= stage.short_words else stage.guesses_long


def worked(problem: Problem, fmt: Format) -> Example:
    """Return the problem with its worked solution."""
    return Example(problem.question, fmt.write(problem.solution or "", problem.answer))


def guessed(problem: Problem, fmt: Format) -> Example:
    """Return the problem answered at once. The answer is the gold one; no small model can learn to guess it."""
    return Example(problem.question, fmt.write(GUESS, problem.answer))


def drill_pool(problems: Sequence[Problem]) -> tuple[str, ...]:
    """Return the arithmetic lines ("3*4=12") of the problems' solutions, repeats kept as weights."""
    lines = (line for problem in problems[:20_000] for line in (problem.solution or "").splitlines())
    return tuple(line for line in lines if line.count("=") == 1 and line[:1].isdigit())


def drill(pool: Sequence[str], rng: Random) -> Problem:
    """Return a problem of three to eight unrelated calculations; its answer is the last one's result."""
    lines = [rng.choice(pool) for _ in range(rng.randint(3, 8))]
    tasks = ", ".join(line.split("=")[0] for line in lines)
    return Problem(question=f"Calculate {tasks}.", answer=lines[-1].split("=")[1], solution="\n".join(lines))
