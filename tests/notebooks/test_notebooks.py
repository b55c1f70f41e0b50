"""The notebooks run top to bottom, and are kept without outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from notebooks.run_cells import code_cells, replaced

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICKSTART, QWEN = ROOT / "notebooks" / "quickstart.ipynb", ROOT / "notebooks" / "qwen-one-gpu.ipynb"


def run_notebook(notebook: Path, folder: Path, *replacements: str) -> str:
    """Return what a notebook's cells print, run in a process and a folder of their own."""
    environment = os.environ | {"MPLBACKEND": "Agg"}
    words = [sys.executable, str(ROOT / "tests" / "notebooks" / "run_cells.py"), str(notebook), *replacements]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_folder(folder: Path) -> Path:
    """Return the one run that was made in a folder."""
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.mark.timeout(300)
def test_the_quickstart_runs_in_small(generator: None, tmp_path: Path) -> None:
    said = run_notebook(
        QUICKSTART, tmp_path, "training.steps=15", "training.steps=2", "heldout_size=120", "heldout_size=12",
        "train_size=400", "train_size=60",
    )  # fmt: skip
    assert "held-out accuracy" in said and "<answer>" in said and "report.html" in said
    assert len((run_folder(tmp_path) / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quickstart_as_it_stands_teaches_the_model(tmp_path: Path) -> None:
    run_notebook(QUICKSTART, tmp_path)
    verdict = json.loads((run_folder(tmp_path) / "verdict.json").read_text())["heldout"]["comparison"]
    assert verdict["significant"] and verdict["difference"] > 0.1 and verdict["problems"] == 120


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_the_gpu_notebook_runs_with_a_stand_in(generator: None, tmp_path: Path) -> None:
    model = ROOT / "src" / "mathgrpo" / "models" / "starter"
    said = run_notebook(QWEN, tmp_path, 'STAND_IN = ""', f"STAND_IN = {str(model)!r}")
    (totals,) = re.findall(r"^total +([\d.]+) +([\d.]+) +([\d.]+)$", said, re.MULTILINE)
    right, _, wrong = map(float, totals)
    assert wrong == right / 2, "the notebook says: half of a right one"
    assert (run_folder(tmp_path) / "checkpoints" / "step-4" / "model.safetensors").is_file()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_clean(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    content = json.loads(text)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["source"] and cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert not re.search(r"^\s*[!%]", "".join(cell["source"]), re.MULTILINE), "plain Python only"
    assert json.dumps(content, indent=1, ensure_ascii=False) + "\n" == text


def test_the_runner_refuses_a_text_that_is_not_there_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="once"):
        replaced(["a = 1", "a = 1"], "a = 1", "a = 2")
    (tmp_path / "bad.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}))
    assert code_cells(tmp_path / "bad.ipynb") == ["1 / 0"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_notebook(tmp_path / "bad.ipynb", tmp_path)
