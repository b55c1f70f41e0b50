"""`mathgrpo train --processes 2` and torchrun: nobody hangs, nothing is left running, one error is shown once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MATHGRPO = ("-m", "mathgrpo")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "mathgrpo")


class Command:
    """A training run of two processes under way, with far too many steps."""

    def __init__(self, folder: Path, program: tuple[str, ...] = MATHGRPO, *settings: str) -> None:
        self.name, self.folder = f"run-{folder.name}", folder
        tiny_model().save_pretrained(folder / "model")
        tiny_tokenizer().save_pretrained(folder / "model")
        rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 21)]
        (folder / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        (folder / "recipe.toml").write_text(
            f'[run]\noutput_dir = "{folder}"\nname = "{self.name}"\ndevice = "cpu"\n'
            f'[model]\npath = "{folder}/model"\ndtype = "float32"\n'
            f'[problems]\nsource = "{folder}/problems.jsonl"\nheldout_size = 4\n[format]\nname = "boxed"\n'
            "[rollout]\nprompts_per_step = 2\ngroup_size = 2\nmax_new_tokens = 4\n[training]\nsteps = 1000000\n"
        )
        together = ["--processes", "2"] if program == MATHGRPO else []
        sets = [word for setting in settings for word in ("--set", setting)]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *program, "train", str(folder / "recipe.toml"), *together, *sets],
            stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait_for_steps(self) -> None:
        path = self.folder / self.name / "metrics.jsonl"
        while not path.is_file() or path.read_text().count("\n") < 2:
            assert self.process.poll() is None, self.text
            time.sleep(0.1)

    @property
    def text(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def status(self) -> str:
        return str(json.loads((self.folder / self.name / "run.json").read_text())["status"])

    def workers(self) -> dict[int, int]:
        """Return rank -> process id of those that run."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                variables = (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ranks = [int(v[5:]) for v in variables if v.startswith(b"RANK=")]
            if str(self.folder / "recipe.toml").encode() in words and ranks:
                found[ranks[0]] = int(path.name)
        return found

    def end(self) -> int:
        code = self.process.wait(timeout=60)
        until = time.monotonic() + 30
        while self.workers() and time.monotonic() < until:
            time.sleep(0.1)
        left = self.workers()
        for pid in left.values():
            os.kill(pid, signal.SIGKILL)
        assert not left, "processes were left running"
        return code


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_other(tmp_path: Path, rank: int) -> None:
    command = Command(tmp_path)
    command.wait_for_steps()
    os.kill(command.workers()[rank], signal.SIGKILL)
    assert command.end() == 137
    assert command.text.count("error:") == 1 and "Traceback" not in command.text
    assert f"error: process {rank} of 2 was ended by SIGKILL; the system does so when memory runs out" in command.text
    assert command.status == ("failed" if rank == 1 else "running")  # nobody else writes the folder


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_command_hands_a_stop_on(tmp_path: Path, signum: signal.Signals) -> None:
    command = Command(tmp_path)
    command.wait_for_steps()
    command.process.send_signal(signum)
    assert command.end() == 128 + signum
    assert command.text.count("stopping cleanly") == 1 and command.text.count("resume with: mathgrpo train") == 1
    assert command.status == "interrupted"
    assert list((tmp_path / command.name / "checkpoints").glob("step-*"))


def test_a_stop_asked_of_the_second_process_stops_both(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.wait_for_steps()
    os.kill(command.workers()[1], signal.SIGTERM)
    assert command.end() == 143
    assert command.status == "interrupted"


def test_nothing_runs_on_without_the_command(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.wait_for_steps()
    command.process.kill()
    assert command.end() == -signal.SIGKILL
    assert command.status == "failed"


def test_an_error_all_processes_meet_is_shown_once(tmp_path: Path) -> None:
    command = Command(tmp_path, MATHGRPO, "rollout.max_new_tokens=5000")
    assert command.end() == 2
    assert command.text.count("error:") == 1 and "rollout.max_new_tokens=5000: with the longest prompt" in command.text


def test_torchrun_starts_the_same_run(tmp_path: Path) -> None:
    command = Command(tmp_path, TORCHRUN)
    command.wait_for_steps()
    os.kill(command.workers()[0], signal.SIGTERM)
    assert command.end() == 1  # torchrun's own code for any exit code but 0
    assert command.status == "interrupted" and command.text.count("step 1/") == 1
