"""One process that starts all contestants and tells them, in turn, to take one step: nothing runs side by side."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.channel import Worker, WorkerError
from benchmarks.results import Experiment, Gradient, Row, Sample
from benchmarks.settings import Contestant, Settings
from benchmarks.task import read_facts
from mathgrpo.errors import UserError

START_TIMEOUT, STEP_TIMEOUT = 600.0, 300.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Pace:
    """How long to go on: warm-up steps, then timed steps until max_steps or, after min_steps, the deadline.

    deadline: a time of time.monotonic().
    """

    warmup: int = 2
    min_steps: int = 3
    max_steps: int = 12
    deadline: float = float("inf")

    def goes_on(self, step: int, round_s: float) -> bool:
        """Return whether to take one more round, the last of which took round_s seconds."""
        timed = step - self.warmup
        if timed < self.min_steps:
            return True
        return timed < self.max_steps and time.monotonic() + round_s < self.deadline


@dataclass(slots=True)
class _Entry:
    """A contestant under way."""

    contestant: Contestant
    worker: Worker
    ready: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""
    turn_ended_cpu_s: float | None = None
    idle_cpu_s: float = 0.0


def run_experiment(
    name: str, title: str, settings: Settings, contestants: Sequence[Contestant], folder: Path, pace: Pace, say: Say,
    python: Mapping[str, str] | None = None,
) -> Experiment:  # fmt: skip
    """Return the measurements of contestants that took turns.

    A contestant that fails leaves the round with its failure noted; the others go on. The order rotates from round to
    round, so that no contestant always runs after the same other.

    folder: made by `task.prepare_task`. python: kind -> interpreter, where it is not this one.
    """
    with ExitStack() as stack:
        entries = []
        for contestant in contestants:
            worker = start_worker(contestant, settings, folder, python or {})
            stack.callback(worker.stop)
            entries.append(_Entry(contestant, worker))
        for entry in entries:
            _attempt(entry, partial(_get_ready, entry), say)
        gradient = _gradient(entries, folder, say)
        _take_turns(entries, pace, say)
        rows = tuple(_row(entry, pace.warmup) for entry in entries)
    return Experiment(name=name, title=title, settings=settings, rows=rows, gradient=gradient)


def start_worker(contestant: Contestant, settings: Settings, folder: Path, python: Mapping[str, str]) -> Worker:
    """Start a contestant's worker; its first reply says that it is ready."""
    options = dict(contestant.options)
    if "gradient_path" in options:
        options["gradient_path"] = str(folder / f"gradient-{contestant.name}.json")
    if contestant.kind == "vllm":
        facts = read_facts(folder)
        options |= {"model": facts["model"], "max_model_len": facts["longest_prompt"] + settings.max_new_tokens}
    interpreter = python.get(contestant.kind, sys.executable)
    arguments = [settings.model_dump_json(), str(folder), json.dumps(options)]
    if contestant.kind == "vllm":
        command = [interpreter, "-P", str(Path(__file__).with_name("vllm_peer.py")), *arguments]
    else:
        command = [interpreter, "-m", "benchmarks.worker", contestant.kind, *arguments]
    log = folder / f"{contestant.name}.log"
    return Worker(contestant.name, command, worker_env(contestant), log)


def worker_env(contestant: Contestant) -> dict[str, str]:
    """Return a worker's environment: this process's, the package on its path, and what the contestant asks for."""
    root = Path(__file__).resolve().parents[1]
    paths = [str(root), str(root / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    if contestant.kind == "vllm":
        del env["PYTHONPATH"]
        env |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    return env | contestant.env


def _gradient(entries: Sequence[_Entry], folder: Path, say: Say) -> Gradient | None:
    """Return how our gradient compares on the batch that a TRL contestant left before it was ready."""
    theirs = next((e for e in entries if "gradient_path" in e.contestant.options and not e.failure), None)
    ours = next((e for e in entries if e.contestant.kind == "ours" and not e.failure), None)
    if theirs is None or ours is None:
        return None
    path = str(folder / f"gradient-{theirs.contestant.name}.json")
    reply: dict[str, Any] = {}
    _attempt(ours, lambda: reply.update(ours.worker.ask(STEP_TIMEOUT, do="gradient", path=path)), say)
    if not reply:
        return None
    gradient = Gradient(**reply)
    rounding = ""
    if gradient.rounding is not None and gradient.trl_rounding is not None:
        rounding = f"; from the float32 gradient: ours {gradient.rounding:.1e}, TRL's {gradient.trl_rounding:.1e}"
    say(
        f"same gradient: relative difference {gradient.relative:.1e} on {gradient.tokens:,} tokens that TRL sampled "
        f"(loss {gradient.loss:.6f}, TRL {gradient.trl_loss:.6f}){rounding}"
    )
    return gradient


def _take_turns(entries: Sequence[_Entry], pace: Pace, say: Say) -> None:
    step, round_s = 0, 0.0
    while pace.goes_on(step, round_s) and any(not entry.failure for entry in entries):
        begun = time.monotonic()
        for entry in rotated(entries, step):
            if not entry.failure:
                _attempt(entry, partial(_one_step, entry, step), say)
                time.sleep(entry.contestant.settle_s)
                entry.turn_ended_cpu_s = entry.worker.cpu_seconds()
        round_s = time.monotonic() - begun
        step += 1


def rotated(entries: Sequence[_Entry], step: int) -> list[_Entry]:
    """Return the entries in the order of a round."""
    first = step % len(entries)
    return [*entries[first:], *entries[:first]]


def _get_ready(entry: _Entry) -> None:
    entry.ready.update(entry.worker.receive(START_TIMEOUT))


def _one_step(entry: _Entry, step: int) -> None:
    if entry.turn_ended_cpu_s is not None:
        entry.idle_cpu_s += entry.worker.cpu_seconds() - entry.turn_ended_cpu_s
    sample = Sample(**entry.worker.ask(STEP_TIMEOUT, do="step", step=step))
    if sample.step != step:
        raise WorkerError(f"{entry.worker.name}: took step {sample.step} when told to take {step}")
    entry.samples.append(sample)


def _attempt(entry: _Entry, action: Callable[[], Any], say: Say) -> None:
    """Do it; a failure takes the contestant out of the round."""
    try:
        action()
    except WorkerError as error:
        entry.failure = str(error)
        say(f"out of the round: {error}")


def _row(entry: _Entry, warmup: int) -> Row:
    ready = entry.ready
    return Row(
        contestant=entry.contestant, samples=tuple(entry.samples[warmup:]), warmup=tuple(entry.samples[:warmup]),
        imported_bytes=ready.get("imported_bytes", 0), prepare_s=ready.get("prepare_s", 0.0),
        idle_cpu_s=entry.idle_cpu_s, note=ready.get("note", ""), failure=entry.failure,
    )  # fmt: skip


def require_python(path: str) -> str:
    """Return the path of an interpreter.

    Raises: UserError when there is none.
    """
    if not os.access(path, os.X_OK) or Path(path).is_dir():
        raise UserError(f"--vllm-python={path}: no interpreter there; give the python of an environment that has vllm")
    return path
