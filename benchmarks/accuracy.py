"""Wall-clock to a fixed held-out accuracy: this project and TRL from the same starter, with the same hyper-parameters.

python -m benchmarks.accuracy [--threshold 0.8] [--seeds N] [--steps N] [--every N] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.arguments import Parser, errors_told
from benchmarks.channel import Worker
from benchmarks.machine import machine_facts, versions
from benchmarks.orchestrate import START_TIMEOUT, STEP_TIMEOUT, start_worker
from benchmarks.results import Sample
from benchmarks.settings import OURS, TRL_GENERATE, Contestant, Record, Settings
from benchmarks.task import prepare_task
from mathgrpo.errors import UserError


class Mark(Record):
    """Held-out accuracy after so many steps and seconds of training; evaluations are not in the seconds."""

    steps: int
    seconds: float
    accuracy: float


class Course(Record):
    """One contestant's training with one seed, up to the first evaluation at or above the threshold."""

    contestant: Contestant
    seed: int
    marks: tuple[Mark, ...]


class AccuracyResults(Record):
    """The results file of this benchmark."""

    schema_version: int = 1
    date: str
    command: str
    threshold: float
    settings: Settings
    machine: dict[str, Any]
    versions: dict[str, str]
    courses: tuple[Course, ...]


def demo_settings(seed: int, steps: int) -> Settings:
    """Return the demo recipe's problems, sizes, rewards and learning rate (recipes/demo.toml) over so many steps."""
    return Settings(
        prompts_per_step=16, group_size=8, max_new_tokens=96, learning_rate=1e-4, schedule="linear",
        warmup_steps=-(-steps // 20), max_grad_norm=0.5, advantage_scale="none", train_problems=4000,
        heldout_problems=500, num_steps=steps, seed=seed,
    )  # fmt: skip


def train_in_turns(
    settings: Settings, contestants: Sequence[Contestant], folder: Path, threshold: float, every: int
) -> list[Course]:
    """Return the courses of contestants that take `every` steps in turn, each until it reaches the threshold.

    Raises: channel.WorkerError when a contestant fails: half a race has no result.
    """
    marks: dict[str, list[Mark]] = {contestant.name: [] for contestant in contestants}
    with ExitStack() as stack:
        workers = []
        for contestant in contestants:
            workers.append(start_worker(contestant, settings, folder, {}))
            stack.callback(workers[-1].stop)
        for worker in workers:
            worker.receive(START_TIMEOUT)
        for first in range(0, settings.num_steps + 1, every):
            for worker in workers:
                mine = marks[worker.name]
                if not mine or mine[-1].accuracy < threshold:
                    mine.append(_next_mark(worker, mine, range(max(0, first - every), first)))
                    _say(worker.name, settings.seed, mine[-1])
    return [Course(contestant=c, seed=settings.seed, marks=tuple(marks[c.name])) for c in contestants]


def _next_mark(worker: Worker, before: Sequence[Mark], steps: range) -> Mark:
    """Take the steps, then evaluate."""
    seconds = before[-1].seconds if before else 0.0
    for step in steps:
        seconds += Sample(**worker.ask(STEP_TIMEOUT, do="step", step=step)).seconds
    accuracy = worker.ask(STEP_TIMEOUT, do="evaluate")["accuracy"]
    return Mark(steps=steps.stop, seconds=seconds, accuracy=accuracy)


def reached(course: Course, threshold: float) -> Mark | None:
    """Return the first mark at or above the threshold, None when there is none."""
    return next((mark for mark in course.marks if mark.accuracy >= threshold), None)


def accuracy_table(results: AccuracyResults) -> str:
    """Return the results as Markdown."""
    settings, threshold = results.settings, results.threshold
    lines = [
        f"Measured on {results.date} by `{results.command}` on {results.machine.get('cpu')}, "
        f"{results.machine.get('cores')} cores, revision {results.versions.get('revision')}.",
        "",
        f"{settings.prompts_per_step} prompts × {settings.group_size}, up to {settings.max_new_tokens} tokens, "
        f"learning rate {settings.learning_rate:g}, linear over {settings.num_steps} steps; "
        f"{settings.heldout_problems} held-out problems, greedy. Evaluations are not in the seconds.",
        "",
        f"| | seed | before | seconds to {100 * threshold:.0f} % | steps | accuracy there |",
        "|---|---|---|---|---|---|",
    ]
    for course in results.courses:
        mark = reached(course, threshold)
        end = mark or course.marks[-1]
        took = f"{mark.seconds:.0f}" if mark else f"not reached in {end.seconds:.0f}"
        before = 100 * course.marks[0].accuracy
        label, accuracy = course.contestant.label, 100 * end.accuracy
        lines.append(f"| {label} | {course.seed} | {before:.1f} % | {took} | {end.steps} | {accuracy:.1f} % |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; bad arguments are one line and exit code 2."""
    with errors_told():
        _run(_parse(arguments))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.accuracy", description="Wall-clock to a held-out accuracy.")
    parser.add_argument("--threshold", type=float, default=0.8, help="accuracy to reach, 0 to 1")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each side, seeds 0, 1, …")
    parser.add_argument("--steps", type=int, default=100, help="steps at most")
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results files")
    given = parser.parse_args(arguments)
    if not 0.0 < given.threshold <= 1.0:
        raise UserError(f"--threshold={given.threshold}: must be above 0 and at most 1, such as 0.8")
    for name in ("seeds", "steps", "every"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name}={getattr(given, name)}: must be 1 or more")
    return given


def _run(given: argparse.Namespace) -> None:
    begun, courses = datetime.now().astimezone(), []
    facts, found = machine_facts("cpu"), versions()
    for seed in range(given.seeds):
        settings = demo_settings(seed, given.steps)
        with tempfile.TemporaryDirectory(prefix="mathgrpo-bench-") as scratch:
            folder = Path(scratch) / "accuracy"
            prepare_task(settings, folder)
            courses += train_in_turns(settings, (OURS, TRL_GENERATE), folder, given.threshold, given.every)
    options = [f"--{name}={getattr(given, name)}" for name in ("threshold", "seeds", "steps", "every")]
    results = AccuracyResults(
        date=begun.isoformat(timespec="seconds"), command=shlex.join(["python", "-m", "benchmarks.accuracy", *options]),
        threshold=given.threshold, settings=demo_settings(0, given.steps), machine=facts, versions=found,
        courses=tuple(courses),
    )  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "accuracy.json"
    path.write_text(json.dumps(results.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(accuracy_table(results), encoding="utf-8")
    print(accuracy_table(results))


def _say(name: str, seed: int, mark: Mark) -> None:
    where = f"seed {seed}, step {mark.steps:>4}, {mark.seconds:6.0f} s"
    print(f"{name:<12} {where}: {100 * mark.accuracy:.1f} %", flush=True)


if __name__ == "__main__":
    main()
