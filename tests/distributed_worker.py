"""One of two processes that take a list of runs together; started by tests/training/test_distributed.py.

Usage: python distributed_worker.py CASES.json, in torchrun's environment. What became of case i in process r is written
to outcome-i-r.json beside the cases.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.config.machinery import machinery_of
from mathgrpo.distributed import processes as join
from mathgrpo.training import Interrupted, train
from mathgrpo.training import loop as training_loop
from mathgrpo.training.train_recipe import resumed_recipe
from mathgrpo.update import gradient
from silent import Silent

RANK = int(os.environ["RANK"])
join.LEAVE_S = 0.2  # no launcher ends the one that waits


class Signalling(Silent):
    """Sends this process a signal when a step is done."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float) -> None:
        if metrics["step"] == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def fault(kind: str) -> Iterator[None]:
    """Make something go wrong in process 1 alone, inside the block."""
    plain, plain_update, calls = gradient._micro_batch_backward, training_loop._learn, [0]

    def backward(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if kind == "out of memory" and calls[0] == 2:
            raise MemoryError("made by the test")
        totals = plain(*args, **options)
        return {name: value * torch.nan for name, value in totals.items()} if kind == "not a number" else totals

    def update(run: Any, *args: Any) -> Any:
        stats = plain_update(run, *args)
        if kind == "weights" and run.step == 1:
            with torch.no_grad():
                next(iter(run.policy.model.parameters())).view(-1)[5] += 1e-7
        return stats

    if RANK == 1 and kind:
        gradient._micro_batch_backward, training_loop._learn = backward, update
    try:
        yield
    finally:
        gradient._micro_batch_backward, training_loop._learn = plain, plain_update


def run_case(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a case ended here."""
    resume = Path(case["resume"]) if case.get("resume") else None
    recipe = resumed_recipe(resume, []) if resume else validated(Recipe, case["recipe"])
    progress = Signalling(case["stop_after"]) if case.get("stop_after") else Silent()
    try:
        with fault(case.get("fault", "")):
            machinery = replace(machinery_of(recipe.run.engine), token_budget=case.get("token_budget", 0))
            train(recipe, recipe_name="tiny", resume=resume, progress=progress, machinery=machinery)
    except Interrupted as stop:
        return {"ended": "interrupted", "exit_code": stop.exit_code}
    except SystemExit as silent:
        return {"ended": "silent", "exit_code": silent.code}
    except Exception as error:
        return {"ended": type(error).__name__, "text": str(error)}
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return {"ended": "finished"}


def main() -> None:
    """Take the cases one after the other, each with a store of its own."""
    path = Path(sys.argv[1])
    for i, case in enumerate(json.loads(path.read_text())):
        os.environ["MASTER_PORT"] = str(case["port"])
        outcome = run_case(case)
        (path.parent / f"outcome-{i}-{RANK}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
