"""A whole step here and with TRL, one contestant at a time on the device, at the settings of `make bench-gpu`.

Every contestant is a process of its own (`benchmarks.worker`), with the same weights, problems and mathematics.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.case import Case, NotHere, Numbers, Setup

if TYPE_CHECKING:
    from benchmarks.experiments import Plan
    from benchmarks.results import Row
    from benchmarks.settings import Contestant

PLAN = "batch-512"
"""Of `experiments.gpu`: 64 prompts × 8, 200 tokens each, the shape of Qwen2.5-0.5B."""
OURS_LIMIT_S = 60.0
GENERATE_S = 55.0
"""What TRL's `generate` is expected to take, start and three steps: compiling may not use it up."""
WITHOUT_CUDNN = {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
"""On Hopper torch lets cuDNN plan attention for every new shape, and decoding makes one with every token. This project
keeps cuDNN out of the way by itself; TRL gets the same."""
LEAST_S = 25.0
"""With fewer seconds left no contestant of TRL's is started: it would not come to a timed step."""
STOP_S = 6.0
"""What ending a contestant and writing its numbers may take."""


def cases(setup: Setup) -> Iterator[Case]:
    """Yield ours, then TRL's ways to sample, those with a target first.

    Limits are made when a case's turn comes, from the time that is left then.
    """
    size = setup.pick("512 completions × 200 tokens", "4 completions × 8 tokens")
    yield Case("ours", lambda: _ours(setup), size=size, limit_s=setup.pick(OURS_LIMIT_S, 0.0))
    compile_s = max(setup.seconds_left - GENERATE_S, GENERATE_S)
    yield Case("trl static compile", lambda: _trl(setup, "trl-compiled", compile_s), size, setup.pick(compile_s, 0.0))
    yield Case("trl generate", lambda: _trl(setup, "trl-generate"), size=size)
    yield Case("trl static", lambda: _trl(setup, "trl-static"), size=size)


def _ours(setup: Setup) -> Numbers:
    """Measure a step here and leave it to TRL's cases.

    Also when it fails or does not come to an end, so that no case of TRL's tries again what took all of the time.
    """
    kept = _kept(setup)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"failure": "it did not end"}))
    try:
        row = _measured(setup, "ours", steps=3)
    except Exception as error:
        kept.write_text(json.dumps({"failure": str(error)}))
        raise
    last = row.samples[-1]
    numbers = _numbers(row, _plan(setup)) | {"engine": row.note, "logprob_difference": last.logprob_difference}
    numbers |= {"shares": last.speed}
    kept.write_text(json.dumps(numbers))
    return numbers


def _trl(setup: Setup, name: str, limit_s: float = float("inf")) -> Numbers:
    """Measure a step of TRL, over ours of the same run."""
    for package in ("trl", "datasets"):
        if importlib.util.find_spec(package) is None:
            raise NotHere(f"trl was not carried ({package} is not there); benchmarks/gpu/pack.sh gathers it")
    if not _kept(setup).is_file():
        _ours(setup)
    if setup.seconds_left < setup.pick(LEAST_S, 0.0):
        raise NotHere("no time was left for it")
    started, ours = time.monotonic(), json.loads(_kept(setup).read_text())
    row = _measured(setup, name, steps=2, deadline=started + limit_s)
    numbers = _numbers(row, _plan(setup)) | {"settings": _settings_of(row.contestant, _plan(setup))}
    if "failure" in ours:
        return numbers | {"ours": f"not measured: {ours['failure']}"}
    parts = {"ratio": "step_s", "rollout_ratio": "rollout_s", "update_ratio": "update_s"}
    return {name: numbers[part] / ours[part] for name, part in parts.items()} | numbers | {"ours_s": ours["step_s"]}


def _kept(setup: Setup) -> Path:
    """The numbers of our side, for all cases of a run."""
    return setup.scratch / "against_trl" / "ours.json"


def _measured(setup: Setup, name: str, steps: int, deadline: float = float("inf")) -> Row:
    """Run a contestant alone: a step that is not timed, then one, and more while time is left.

    Raises: RuntimeError with the contestant's own words when it failed.
    """
    from benchmarks.orchestrate import Pace, run_experiment

    plan, folder = _plan(setup), _task(setup)
    contestant = next(c for c in plan.contestants if c.name == name)
    if contestant.kind == "trl":
        contestant = contestant.model_copy(update={"env": contestant.env | WITHOUT_CUDNN})
    pace = Pace(warmup=1, min_steps=1, max_steps=steps, deadline=min(deadline, setup.deadline) - STOP_S)
    done = run_experiment(plan.name, plan.title, plan.settings, [contestant], folder, pace, lambda line: None)
    row = done.rows[0]
    if row.failure:
        _print_end(folder / f"{name}.log")
        raise RuntimeError(row.failure)
    return row


def _plan(setup: Setup) -> Plan:
    """Return the experiment with as many problems as a step has.

    Every step then has the same prompts in another order, and no side meets a length after its warm-up that it has not
    compiled or captured for.
    """
    from benchmarks.experiments import gpu, tiny

    plan = next(plan for plan in gpu() if plan.name == PLAN)
    if setup.rehearse:
        [plan] = tiny([plan], setup.device)
    update = {"train_problems": plan.settings.prompts_per_step, "num_steps": 4, "problems": _problems(setup)}
    return plan.model_copy(update={"settings": plan.settings.model_copy(update=update)})


def _problems(setup: Setup) -> str:
    """Return where the problems come from: those that were carried, else the generator."""
    try:
        return str(setup.carried_file("problems"))
    except NotHere:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise
        return "generated"


def _task(setup: Setup) -> Path:
    """Return the folder with problems, prompts and the model, made by the first case that needs it."""
    from benchmarks.task import prepare_task

    base = setup.scratch / "against_trl"
    folder = base / "task"
    if not (folder / "facts.json").is_file():  # what is written last
        for part in (folder, base / "models"):
            shutil.rmtree(part, ignore_errors=True)
        prepare_task(_plan(setup).settings, folder)
    return folder


def _numbers(row: Row, plan: Plan) -> Numbers:
    """Return medians of the timed steps.

    tokens_per_s: completion tokens over the rollout. prompt_tokens, new_tokens: of one prompt without padding, of one
    completion. peak_gb: since the contestant was ready, the warm-up step included.
    """
    samples = row.samples
    return {
        "step_s": median(s.seconds for s in samples), "rollout_s": median(s.rollout_s for s in samples),
        "update_s": median(s.update_s for s in samples), "reward_s": median(s.reward_s for s in samples),
        "tokens_per_s": median(s.tokens / s.rollout_s for s in samples),
        "peak_gb": max(s.peak_bytes for s in (*row.warmup, *samples)) / 1e9,
        "steps_s": [round(s.seconds, 4) for s in samples],
        "warmup_s": [round(s.seconds, 4) for s in row.warmup], "start_s": row.prepare_s,
        "prompt_tokens": samples[-1].prompt_tokens / plan.settings.prompts_per_step,
        "new_tokens": samples[-1].tokens / plan.settings.completions,
    }  # fmt: skip


def _settings_of(contestant: Contestant, plan: Plan) -> str:
    """Return how TRL was set, for the reader of its number."""
    options: dict[str, Any] = contestant.options
    micro_batches = min(options.get("micro_batches", 1), plan.settings.completions)
    weights = "float32 weights" if "model_dtype" not in options else f"{options['model_dtype']} weights, no masters"
    cache = f"{options.get('cache_implementation', 'dynamic')} cache"
    return ", ".join([
        weights, "bfloat16 autocast", cache, "generate compiled" if options.get("compile") else "not compiled",
        f"{micro_batches} micro-batches", "no gradient checkpointing", "fused AdamW", "attention without cuDNN",
    ])  # fmt: skip


def _print_end(log: Path, lines: int = 40) -> None:
    """Print the end of a contestant's log, for the kit's own: the file goes with the scratch folder."""
    if log.is_file():
        print(*log.read_text(errors="replace").splitlines()[-lines:], sep="\n", flush=True)
