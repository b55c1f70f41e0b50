"""The starter model's own recipe, from nothing: what is left of the kit's minutes, at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.case import Case, NotHere, Numbers, Setup
from benchmarks.gpu.programs import CommandFailed, Ended, Program, free_folder, read_rows, sets
from mathgrpo.evaluation import read_evaluation

SPARE_S = 15.0
"""Before the end, a run is stopped as by Ctrl-C: it saves its model and ends."""
WORTH_S = 20.0
"""With less time a run would be stopped while it reads its problems."""
LEARN_TOKENS = 100
"""Of the stages in a rehearsal: a step each, as batches are larger."""


def cases(setup: Setup) -> Iterator[Case]:
    """Yield the two halves of `make starter`; the second goes on from the first."""
    yield Case("starter-base", lambda: _base(setup), size="5.0 M tokens, batches of 5,120")
    yield Case("starter-sft", lambda: _second_half(setup), size="3.5 M tokens, batches of 5,120")


def _base(setup: Setup) -> Numbers:
    """Train the first half. In a rehearsal it is stopped after its first steps, as it is where time runs out."""
    source = setup.carried_file("base", "train.jsonl").parent
    return _train(setup, "starter-base", source, setup.pick(float("inf"), 2), problems__heldout_size=500)


def _second_half(setup: Setup) -> Numbers:
    """Train the second half on the demo's problems, from the newest first half there is."""
    source = setup.carried_file("problems", "train.jsonl").parent
    bases = sorted((setup.scratch / "starter").glob("starter-base-*/checkpoints/*/model.safetensors"),
                   key=lambda path: path.stat().st_mtime)  # fmt: skip
    if not bases:
        raise NotHere("the first half has saved no model")
    fewer = {f"stages__{i}__tokens": LEARN_TOKENS for i in range(2)} if setup.rehearse else {}
    base = bases[-1].parents[2]
    return _train(setup, "starter-sft", source, float("inf"), model__path=base,
                  problems__heldout_size=setup.pick(500, 8), **fewer)  # fmt: skip


def _train(setup: Setup, recipe: str, source: Path, most_steps: float, **settings: object) -> Numbers:
    """Return how fast a recipe trained and how far it came, stopped when the time is over, or after so many steps."""
    if setup.seconds_left < SPARE_S + WORTH_S:
        raise NotHere(f"no time was left for it ({setup.seconds_left:.0f} s)")
    root = setup.scratch / "starter"
    folder = free_folder(root, recipe)
    program = Program(
        setup, "sft", recipe, *sets(problems__source=source, problems__columns__solution="solution"), *sets(**settings),
        *sets(run__output_dir=root, run__name=folder.name, run__device=setup.device, training__log_every=1),
    )  # fmt: skip
    while program.goes_on and setup.seconds_left > SPARE_S and len(read_rows(folder)) < most_steps:
        time.sleep(0.2)
    stopped = program.goes_on
    program.interrupt()
    return _of_run(folder, program.end(SPARE_S, code=130 if stopped else 0), stopped=stopped)


def _of_run(folder: Path, ended: Ended, *, stopped: bool) -> Numbers:
    """Return what the metrics say, and what the evaluation at the end found where there was one.

    Tokens per second are those of the steps alone; the first ones, in which kernels are chosen, are left out of them.
    """
    rows = read_rows(folder)
    if not rows:
        raise CommandFailed(f"{folder.name}: stopped after {ended.seconds:.0f} s, before its first step")
    tenth = max(1, len(rows) // 10)
    numbers: Numbers = {
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in rows[len(rows) // 4 :]),
        "tokens": rows[-1]["tokens"], "steps": rows[-1]["step"], "seconds": ended.seconds, "stopped": stopped,
        "first_loss": rows[0]["loss"], "last_loss": statistics.fmean(row["loss"] for row in rows[-tenth:]),
    }  # fmt: skip
    if (folder / "eval" / "after.json").is_file():
        summary = read_evaluation(folder, "after").summary()
        numbers |= {name: summary[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "problems")}
    return numbers
