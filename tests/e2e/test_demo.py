"""The demo, whole and short: held-out accuracy rises by at least 15 points, significantly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_makes_the_starter_better(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mathgrpo",
        "demo",
        "--set",
        f"run.output_dir={tmp_path}",
        "--set",
        "run.name=demo",
    ]
    done = subprocess.run([*command, "--set", "training.steps=40"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    comparison = json.loads((tmp_path / "demo" / "verdict.json").read_text())["heldout"]["comparison"]
    assert comparison["problems"] >= 500 and comparison["difference"] >= 0.15 and comparison["p"] < 0.001
    assert "p < 0.001" in done.stdout and "held-out accuracy" in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    assert len(page) < 2_000_000 and "http" not in page.split("<body")[0].replace("http-equiv", "")
