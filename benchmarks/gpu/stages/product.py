"""The commands a user runs: demo, a run interrupted and resumed, adapters, 4 bits, report, export, GSM8K."""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from collections.abc import Iterator
from functools import partial
from math import hypot
from pathlib import Path
from typing import Any

from benchmarks.gpu.case import Case, NotHere, Numbers, Setup, WrongNumbers
from benchmarks.gpu.programs import (
    STOP_S,
    CommandFailed,
    Ended,
    Program,
    SideBySide,
    free_folder,
    read_rows,
    run,
    sets,
)
from mathgrpo.evaluation.records import wilson_interval

CPU_BEFORE, CPU_AFTER = 0.420, 0.887
"""Accuracy of the demo on a CPU: before, and after, the mean of seeds 0, 1 and 2 (README.md)."""
CPU_PROBLEMS = 500
SPEED = ("time/", "tokens_per_s", "mfu/", "roofline/", "memory/")
"""Metrics that no two runs have in common."""
OTHERS_S = 35.0
"""Of the stage's time, what the commands after the demo need, most of them side by side."""
QUESTION = "Tom has 3 boxes with 4 pens each and gives 5 pens away. How many pens does he have left?"


def cases(setup: Setup) -> Iterator[Case]:
    """Yield the demo, which has the machine for itself; then the short runs, side by side where there are cores."""
    aside = SideBySide(setup, {
        "uninterrupted": lambda: _uninterrupted(setup),
        "lora": lambda: _short_run(setup, "lora", model__lora__r=8),
        "nf4": lambda: _nf4(setup),
        "gsm8k": lambda: _gsm8k(setup),
        "report and export": lambda: _report_and_export(setup),
        "env": lambda: _env(setup),
    })  # fmt: skip
    yield Case("demo", lambda: _demo(setup), size="100 steps of 16 × 8 completions, 500 held-out problems")
    yield Case("train, interrupt, resume", lambda: _interrupt_and_resume(setup, aside))
    for name in ("lora", "nf4", "report and export", "gsm8k", "env"):
        yield Case(name, partial(aside.result, name))


def _demo(setup: Setup) -> Numbers:
    """Run the demo on the problems it would generate, and judge it by what a CPU measured."""
    small = [*_small(setup, 3), *sets(problems__heldout_size=32)] if setup.rehearse else []
    folder, place = _new_run(setup, "demo")
    limit = max(setup.seconds_left / 2, setup.seconds_left - OTHERS_S)
    ended = run(setup, "demo", "--seed", "0", *_problems(setup), *small, *place, limit_s=limit)
    verdict = _read_json(folder / "verdict.json")["heldout"]["comparison"]
    before, after, problems = verdict["before"], verdict["after"], verdict["problems"]
    numbers = {
        "before": before, "after": after, "low": verdict["low"], "high": verdict["high"], "p": verdict["p"],
        "problems": problems, "cpu_before": CPU_BEFORE, "cpu_after": CPU_AFTER, **_of_run(folder, ended),
    }  # fmt: skip
    if not setup.rehearse:
        wrong = [
            f"{when} {100 * found:.1f} %, on a CPU {100 * there:.1f} %"
            for when, found, there in (("before", before, CPU_BEFORE), ("after", after, CPU_AFTER))
            if not may_be_equal(found, problems, there, CPU_PROBLEMS)
        ]
        if wrong:
            raise WrongNumbers("; ".join(wrong), numbers)
    return numbers


def may_be_equal(one: float, one_trials: int, other: float, other_trials: int) -> bool:
    """Return whether the 95 % interval of the difference of two independent proportions contains 0.

    The problems are the same, so that a difference with this interval is found too seldom rather than too often.
    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    low_one, high_one = wilson_interval(round(one * one_trials), one_trials)
    low_other, high_other = wilson_interval(round(other * other_trials), other_trials)
    below, above = hypot(one - low_one, high_other - other), hypot(high_one - one, other - low_other)
    return -above <= one - other <= below


def _interrupt_and_resume(setup: Setup, aside: SideBySide) -> Numbers:
    """Stop a run as Ctrl-C does, go on with it, and hold it against one that nobody stopped."""
    aside.begin()
    folder, place = _new_run(setup, "interrupted")
    program = Program(setup, "train", "demo", *_stoppable(setup), *place)
    while len(read_rows(folder)) < 3 and program.goes_on and setup.seconds_left > STOP_S / 3:
        time.sleep(0.02)
    if len(read_rows(folder)) < 3:
        program.end(1.0)  # which says how far it came, or why it ended
    program.interrupt()
    stopped = program.end(STOP_S, code=130)  # 0 where it ended before it heard: then the case fails, and says so
    saved, how = len(read_rows(folder)), f"resume with: mathgrpo train --resume {folder}"
    numbers: Numbers = {"stopped_after": saved, "steps": _steps(setup), "seconds_to_stop": stopped.seconds}
    if how not in stopped.output:
        raise WrongNumbers(f"the stopped run does not say {how!r}", numbers)
    resumed = run(setup, "train", "--resume", str(folder))
    rows, whole = read_rows(folder), read_rows(Path(aside.result("uninterrupted")["folder"]))
    numbers |= {"seconds_to_resume": resumed.seconds, **_differences(rows, whole)}
    if [row["step"] for row in rows] != list(range(1, _steps(setup) + 1)):
        raise WrongNumbers(f"the resumed run's steps are {[row['step'] for row in rows]}", numbers)
    if setup.device == "cpu" and numbers["metrics_that_differ"]:
        raise WrongNumbers("resumed and uninterrupted run differ on a CPU", numbers)
    return numbers


def _differences(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> Numbers:
    """Return how far the metrics of two runs are apart, those of speed left out."""
    names = [name for name in whole[0] if not name.startswith(SPEED)]
    pairs = list(zip(rows, whole, strict=False))
    largest = {name: max(abs(a.get(name, 0.0) - b.get(name, 0.0)) for a, b in pairs) for name in names}
    return {
        "largest_loss_difference": largest["loss"], "largest_reward_difference": largest["reward"],
        "metrics_compared": len(names), "metrics_that_differ": sum(value != 0 for value in largest.values()),
        "first_step_that_differs": next((b["step"] for a, b in pairs if any(a.get(n) != b.get(n) for n in names)), 0),
    }  # fmt: skip


def _uninterrupted(setup: Setup) -> Numbers:
    folder, place = _new_run(setup, "uninterrupted")
    run(setup, "train", "demo", *_stoppable(setup), *place)
    return {"folder": str(folder)}


def _steps(setup: Setup) -> int:
    return int(setup.pick(24, 6))


def _stoppable(setup: Setup) -> list[str]:
    """Return the options of a run that can be stopped, the same for the one that is not."""
    # On a CPU "auto" is settled by a measurement, which may come out differently for each run.
    dtype = sets(model__dtype="float32") if setup.device == "cpu" else []
    return [*_problems(setup), *_small(setup, _steps(setup)), *dtype, *sets(training__checkpoint_every=2)]


def _short_run(setup: Setup, name: str, **settings: object) -> Numbers:
    """Return the speed and the last numbers of a few steps with other settings."""
    folder, place = _new_run(setup, name)
    ended = run(setup, "train", "demo", *_problems(setup), *_small(setup, setup.pick(8, 2)), *sets(**settings), *place)
    return _of_run(folder, ended)


def _nf4(setup: Setup) -> Numbers:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise NotHere("bitsandbytes is not installed")
    return _short_run(setup, "nf4", model__lora__r=8, model__quantization="nf4")


def _gsm8k(setup: Setup) -> Numbers:
    source = setup.carried_file("gsm8k", "train.jsonl").parent
    folder, place = _new_run(setup, "gsm8k")
    ended = run(
        setup, "train", "starter-gsm8k", *sets(problems__source=source), *_small(setup, setup.pick(5, 2)), *place
    )
    return _of_run(folder, ended)


def _report_and_export(setup: Setup) -> Numbers:
    """Write the report of a run that ended, export its model, which scores it again, and ask it something."""
    folder = _ended_run(setup)
    report = run(setup, "report", str(folder))
    export = run(setup, "export", str(folder), "--to", str(folder / "exported"), "--check", str(setup.pick(25, 4)))
    solve = run(setup, "solve", str(folder / "exported"), QUESTION)
    return {
        "report_kb": (folder / "report.html").stat().st_size / 1e3, "report_s": report.seconds,
        "exported_mb": (folder / "exported" / "model.safetensors").stat().st_size / 1e6, "export_s": export.seconds,
        "export_says": export.output.strip().splitlines()[-1][:300], "solve_s": solve.seconds,
        "solve_says": solve.output.strip()[-300:],
    }  # fmt: skip


def _env(setup: Setup) -> Numbers:
    """Return what `mathgrpo env` finds to work here, and why the rest does not."""
    ended = run(setup, "env", "--json")
    found = json.loads(ended.output[ended.output.index("{") :])
    verdicts = [*found["engines"], *found["adapters"]]
    return {
        "seconds": ended.seconds, "works": [v["name"] for v in verdicts if v["works"]],
        "does_not": {v["name"]: v["why"] for v in verdicts if not v["works"]},
    }  # fmt: skip


def _problems(setup: Setup) -> list[str]:
    """Return the options that read the demo's own problems, which nothing here could generate."""
    source = setup.carried_file("problems", "train.jsonl").parent
    return sets(problems__source=source, problems__columns__solution="solution")


def _small(setup: Setup, steps: int) -> list[str]:
    """Return the options of a short run; in a rehearsal its steps are small."""
    short = sets(training__steps=steps, problems__heldout_size=setup.pick(64, 8), evaluation__samples=0)
    tiny = sets(
        problems__train_size=64, rollout__prompts_per_step=4, rollout__group_size=4, rollout__max_new_tokens=48,
    )  # fmt: skip
    return [*short, *(tiny if setup.rehearse else [])]


def _new_run(setup: Setup, name: str) -> tuple[Path, list[str]]:
    """Return the folder of a new run, and the options that make it that: nothing is in the way of a second try."""
    root = setup.scratch / "runs"
    folder = free_folder(root, name)
    return folder, sets(run__output_dir=root, run__name=folder.name, run__device=setup.device)


def _ended_run(setup: Setup) -> Path:
    """Return the demo's run folder, or that of another run that ended well."""
    runs = sorted((setup.scratch / "runs").glob("*/verdict.json"), key=lambda path: path.parent.name != "demo-1")
    ended = [path.parent for path in runs if _read_json(path.parent / "run.json").get("status") == "finished"]
    if not ended:
        raise NotHere("no run has ended well")
    return ended[0]


def _of_run(folder: Path, ended: Ended) -> Numbers:
    """Return what every run tells: seconds of the command and of a step, shares of the peaks, how it decoded."""
    rows, info = read_rows(folder), _read_json(folder / "run.json")
    if not rows:
        raise CommandFailed(f"{folder.name}: no step was written to metrics.jsonl")
    engine = [note for note in info["notes"] if note.startswith("rollout engine")]

    def median(name: str) -> float | None:
        values = [row[name] for row in rows[len(rows) // 4 :] if row.get(name) is not None]
        return statistics.median(values) if values else None

    step_s, last = median("time/step"), rows[-1]
    numbers: dict[str, Any] = {
        "seconds": ended.seconds, "steps": len(rows), "step_s": step_s, "steps_per_s": 1 / step_s if step_s else None,
        "rollout_s": median("time/rollout"), "reward_s": median("time/reward"), "update_s": median("time/update"),
        "tokens_per_s": median("tokens_per_s"), "mfu_update": median("mfu/update"),
        "roofline_rollout": median("roofline/rollout"), "loss": last.get("loss"), "reward": last.get("reward"),
        "logprob_difference": median("sampling/logprob_difference/mean"),
        "device_peak_gb": last.get("memory/device_peak_gb"),
        "engine": engine[0].removeprefix("rollout engine ") if engine else "",
        "notes": [note for note in info["notes"] if note not in engine],
    }  # fmt: skip
    return {name: value for name, value in numbers.items() if value is not None}


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
