"""Turns, failures and clean endings, with workers that do no work; and the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import channel, orchestrate
from benchmarks.orchestrate import Pace, run_experiment, worker_env
from benchmarks.run import main, parse
from benchmarks.settings import TRL_TUNED_ALLOCATOR, VLLM, Contestant, Settings
from mathgrpo.errors import UserError


def fake(name: str, **options: float) -> Contestant:
    return Contestant(name=name, label=name, kind="fake", options=options)


def children() -> set[str]:
    """Return the processes this one started that still run."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def test_contestants_take_turns_and_warmup_is_kept_apart(tmp_path: Path) -> None:
    before, said = children(), list[str]()
    done = run_experiment(
        "turns", "Turns", Settings(), [fake("fast", seconds=0.01), fake("slow", seconds=0.05)], tmp_path,
        Pace(warmup=2, min_steps=1, max_steps=3), said.append,
    )  # fmt: skip
    fast, slow = done.rows
    assert [s.step for s in fast.samples] == [s.step for s in slow.samples] == [2, 3, 4]
    assert [s.step for s in fast.warmup] == [0, 1]
    assert fast.note == "does no work" and fast.imported_bytes == 1
    assert all(f.seconds < s.seconds for f, s in zip(fast.samples, slow.samples, strict=True))
    assert fast.idle_cpu_s + slow.idle_cpu_s < 0.1
    assert children() == before and not said


def test_a_failure_takes_one_contestant_out_and_is_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    done = run_experiment(
        "failing", "", Settings(), [fake("good"), fake("bad", fails_at=2)], tmp_path, Pace(1, 1, 3), said.append
    )
    good, bad = done.rows
    assert len(good.samples) == 3 and not good.failure
    assert len(bad.samples) == 1 and bad.failure == "bad: ValueError: told to fail"
    assert said == ["out of the round: bad: ValueError: told to fail"]


def test_a_silent_contestant_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrate, "STEP_TIMEOUT", 1.0)
    monkeypatch.setattr(channel, "STOP_TIMEOUT", 1.0)
    before = children()
    done = run_experiment(
        "silent", "", Settings(), [fake("good"), fake("mute", hangs_at=1)], tmp_path, Pace(0, 1, 2), lambda line: None
    )
    assert "gave no answer in 1 s" in done.rows[1].failure and len(done.rows[0].samples) == 2
    assert children() == before


def test_a_contestant_that_cannot_start_says_why(tmp_path: Path) -> None:
    contestant = Contestant(name="nobody", label="", kind="fake")
    done = run_experiment(
        "unstarted", "", Settings(), [contestant], tmp_path, Pace(0, 1, 1), lambda line: None, {"fake": "/bin/false"}
    )
    assert done.rows[0].failure == "nobody: ended" and not done.rows[0].samples


def test_the_order_rotates() -> None:
    entries = ["a", "b", "c"]
    assert [orchestrate.rotated(entries, step) for step in (0, 1, 5)] == [  # type: ignore[arg-type]
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"],
    ]  # fmt: skip


def test_pace_takes_the_least_steps_even_when_time_is_up() -> None:
    late = Pace(warmup=1, min_steps=2, max_steps=5, deadline=0.0)
    assert [late.goes_on(step, 1.0) for step in range(4)] == [True, True, True, False]
    early = Pace(warmup=1, min_steps=2, max_steps=5)
    assert early.goes_on(5, 1.0) and not early.goes_on(6, 1.0)


def test_only_a_contestants_own_variables_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    plain, tuned = worker_env(fake("x")), worker_env(TRL_TUNED_ALLOCATOR)
    assert {key for key in tuned if tuned[key] != plain.get(key)} == set(TRL_TUNED_ALLOCATOR.env)
    assert "PYTHONPATH" not in worker_env(VLLM)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--quick", "--tiny"], "choose one"),
        (["--quick", "--device", "cuda"], "--quick is for the CPU"),
        (["--minutes", "-1"], "--minutes=-1.0: must be above 0"),
        (["--vllm-python", "/nowhere/python"], "no interpreter there"),
        (["--only", "naturel"], "there are: natural-float32"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        parse(arguments)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_without_a_gpu_the_command_says_so_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit) as stop:
        main(["--device", "cuda"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: --device cuda: this machine has no CUDA device; run make bench for the CPU\n"
    )
