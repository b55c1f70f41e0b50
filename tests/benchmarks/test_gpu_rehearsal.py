"""The kit, run on a CPU: some stages here, all of them in the environment of a bare GPU machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.page import BAD
from benchmarks.gpu.plan import STAGES
from benchmarks.gpu.record import newest, read_lines

ROOT = Path(__file__).resolve().parents[2]
MACHINE = Path(os.environ.get("MATHGRPO_GPU_MACHINE_PYTHON", ROOT / ".venv-gpu" / "bin" / "python"))
"""The python of an environment with the packages of benchmarks/gpu/machine.txt and no others."""


def rehearse(python: Path, out: Path, *arguments: str, checkout: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")}
    command = [str(python), "-m", "benchmarks.gpu", "--rehearse", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)


@pytest.mark.timeout(200)
def test_some_stages_run_here(tmp_path: Path) -> None:
    """What they need of a CPU is seconds; the others' is in the slow test."""
    stages = ["facts", "decoding", "whole_step"]
    done = rehearse(Path(sys.executable), tmp_path, "--only", *stages)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = newest(read_lines(tmp_path / "results.jsonl"))
    assert {stage for stage, _ in lines} == set(stages)
    assert all(line["status"] in ("done", "skipped") for line in lines.values())
    assert lines["whole_step", "five steps"]["numbers"]["step_s"] > 0
    page = (tmp_path / "results.md").read_text()
    assert "its numbers say nothing about speed" in page and "not judged on this card" in page


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_it_runs_on_a_machine_without_network_that_lacks_what_was_carried(tmp_path: Path) -> None:
    """As a new user would: a copy of the checkout without git, the packed folder, one command."""
    if not MACHINE.is_file():
        pytest.skip(f"{MACHINE} is not there: `make gpu-env` makes it, or MATHGRPO_GPU_MACHINE_PYTHON names one")
    checkout = tmp_path / "checkout"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    version = subprocess.run(
        [MACHINE, "-c", "import sys; print('.'.join(map(str, sys.version_info[:2])))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    packed = subprocess.run(
        [ROOT / "benchmarks/gpu/pack.sh", "--python", version, "--out", str(checkout / ".gpu-kit")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    assert "python3 -m benchmarks.gpu" in packed.stdout
    done = rehearse(MACHINE, tmp_path / "out", "--minutes", "25", checkout=checkout)
    lines = read_lines(tmp_path / "out" / "results.jsonl")
    bad = {f"{s}/{c}": line["error"] for (s, c), line in newest(lines).items() if line["status"] in BAD}
    assert not bad and done.returncode == 0, done.stdout + done.stderr
    endings = {line["stage"]: line for line in lines if "stage" in line and "case" not in line}
    assert set(endings) == {stage.name for stage in STAGES if not stage.hidden}
    for stage in STAGES:
        if not stage.hidden:
            assert endings[stage.name]["status"] == "done", stage.name
            assert endings[stage.name]["seconds"] <= stage.rehearsal_s, stage.name
    assert lines[0]["card"] == "none, a rehearsal" and lines[0]["revision"] not in ("", "unknown"), (
        "the packed revision stands in for git"
    )
