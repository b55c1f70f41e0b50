"""The kit's driver: whatever a case does, it is recorded, and its stage goes on behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import driver as driving
from benchmarks.gpu.carried import environment
from benchmarks.gpu.driver import Driver, short, told
from benchmarks.gpu.plan import STAGES, Stage, named
from benchmarks.gpu.record import Record, newest, read_lines

ROOT = Path(__file__).resolve().parents[2]


def driver_of(folder: Path, said: list[str], minutes: float = 5.0) -> Driver:
    log = folder / "log.txt"
    setup = {"device": "cpu", "rehearse": True, "scratch": str(folder), "log": str(log), "carried": ""}
    record = Record(folder / "results.jsonl", "a run")
    return Driver(record, setup, environment(None), log, time.monotonic() + 60 * minutes, said.append)


def test_every_mishap_is_recorded_as_what_it_was_and_the_stage_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "LEAST_S", 1.0)
    monkeypatch.setattr(driving, "PATIENCE_S", 0.5)
    said: list[str] = []
    before = children()  # another test's grader, say
    driver_of(tmp_path, said).run(Stage("mishaps", "", 0, rehearsal_s=20.0))
    lines = read_lines(tmp_path / "results.jsonl")
    cases = {case: line for (_, case), line in newest(lines).items()}
    assert {case: line["status"] for case, line in cases.items()} == {
        "good": "done", "fails": "failed", "wrong": "wrong", "not here": "skipped", "fills memory": "out of memory",
        "fills the host's memory": "out of memory", "hangs": "timed out", "loses the device": "failed", "dies": "died",
        "dies and leaves a process behind": "died", "good again": "done", "outlasts its stage": "timed out",
    }  # fmt: skip
    assert cases["good again"]["numbers"] == {"answer": 43} and cases["wrong"]["numbers"] == {"difference": 7.0}
    assert cases["fails"]["error"] == "ValueError: told to fail"
    assert cases["fills memory"]["size"] == "2^50 numbers" and "at 2^50 numbers" in "\n".join(said)
    assert "its limit of 1 s" in cases["hangs"]["error"] and 1.0 <= cases["hangs"]["seconds"] < 4.0
    assert "SIGSEGV" in cases["dies"]["error"]
    assert "stage's time was over" in cases["outlasts its stage"]["error"]
    ending = lines[-1]
    assert "case" not in ending and ending["status"] == "out of time" and ending["seconds"] < 20.0 + 3.0
    assert next(iter(cases)) == "good" and children() <= before


def test_a_stage_that_cannot_begin_is_one_failed_case(tmp_path: Path) -> None:
    said: list[str] = []
    driver_of(tmp_path, said).run(Stage("no_such_stage", "", 0, rehearsal_s=20.0))
    (line, ending) = read_lines(tmp_path / "results.jsonl")
    assert line["case"] == "its process" and line["status"] == "died" and "no_such_stage" in line["error"]
    assert ending["status"] == "failed"


def test_a_stage_for_which_no_time_is_left_is_skipped_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    driver_of(tmp_path, said, minutes=0.1).run(STAGES[0])
    (line,) = read_lines(tmp_path / "results.jsonl")
    assert line["status"] == "skipped" and line["stage"] == "facts" and "no time" in said[0]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_kit_that_is_told_to_end_leaves_nothing_running_and_keeps_what_it_has(tmp_path: Path, sign: int) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--rehearse",
        "--only",
        "mishaps",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "good: done" in line:
            break
    running = descendants(process.pid)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors.strip().splitlines()[-1] == "stopped; what was measured is kept"
    assert running and not any(alive(pid) for pid in running)
    assert any(line.get("case") == "good" for line in read_lines(tmp_path / "out" / "results.jsonl"))
    assert "| good | done |" in (tmp_path / "out" / "results.md").read_text()


def test_a_results_line_cut_short_is_left_out_and_a_case_run_again_replaces_itself(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for run, answer in (("first", 1), ("second", 2)):
        Record(path, run).add(stage="facts", case="copy", numbers={"answer": answer})
    with path.open("a") as file:
        file.write('{"run": "second", "stage": "facts", "ca')
    lines = read_lines(path)
    assert len(lines) == 2 and newest(lines)["facts", "copy"]["numbers"] == {"answer": 2}
    assert read_lines(tmp_path / "none.jsonl") == []


def test_stages_are_run_in_the_kits_order_and_hidden_ones_only_by_name() -> None:
    every, unknown = named([])
    assert [s.name for s in every] == [s.name for s in STAGES if not s.hidden] and not unknown
    assert named(["nonsense"]) == ([], ["nonsense"])
    assert sum(stage.limit_s for stage in STAGES if stage.name in ("facts", "correctness", "decoding", "updating",
                                                                   "whole_step")) < 540  # fmt: skip


def test_a_line_for_the_terminal_is_short() -> None:
    line = {"case": "512 rows", "status": "out of memory", "size": "512 rows", "seconds": 3.21, "error": "OOM",
            "numbers": {}}  # fmt: skip
    assert told(line) == "512 rows: out of memory at 512 rows in 3.2 s (OOM)"
    assert short(float("nan")) == "nan" and short(12) == "12" and short(False) == "no"


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    try:
        direct = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(p for child in direct for p in descendants(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_driver_needs_nothing_but_python() -> None:
    """What a machine lacks must not stop the kit from saying so."""
    code = (
        "import sys; sys.path[:0] = ['src', '.']; import benchmarks.gpu.command, json; "
        "heavy = {'torch', 'pydantic', 'numpy', 'transformers'}; "
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules} & heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
