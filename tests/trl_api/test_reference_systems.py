"""The code cells of reference systems 1, 2 and 3 run with the import changed; 1 and 2 with fewer and shorter steps.

The notebooks name hub models and data sets; the working folder holds tiny ones under these names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trl_api.local_hub import add_gsm8k, add_model
from trl_api.notebook_text import code_cells

SYSTEMS = Path(__file__).resolve().parents[2].parent / "shared" / "reference-systems"
pytestmark = [
    pytest.mark.skipif(not SYSTEMS.is_dir(), reason="the reference systems are not beside this repository"),
    pytest.mark.timeout(300),
]
REPORT = """
import json
moved = sum(bool((a.detach().cpu() != b.detach().cpu()).any()) for a, b in zip(trainer.model.parameters(), _before))
print("REPORT", json.dumps({"steps": trainer.state.global_step, "log": trainer.state.log_history, "moved": moved,
      "engine": trainer.engine.reason, "names": trainer.reward_func_names}))
"""


def run_cells(file: str, folder: Path, changes: dict[str, str], *, train: bool = False) -> dict[str, Any]:
    """Run a notebook's cells in a fresh process in `folder`; return what its trainer says at the end."""
    cells = code_cells((SYSTEMS / file).read_text(encoding="utf-8", errors="replace"))
    code = "\n\n".join(cells)
    for old, new in ({"from trl import": "from mathgrpo import"} | changes).items():
        assert code.count(old) == 1, f"{old!r} is {code.count(old)} times in {file}"
        code = code.replace(old, new)
    begin = "_before = [p.detach().clone() for p in trainer.model.parameters()]\ntrainer.train()"
    code = code.replace("\ntrainer.train()", "\n" + begin) if not train else f"{code}\n{begin}"
    script = folder / "notebook.py"
    script.write_text(code + REPORT, encoding="utf-8")
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONIOENCODING": "utf-8",
        "TRACKIO_DIR": str(folder / "trackio"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    return json.loads(line.removeprefix("REPORT ")) | {"stdout": done.stdout}


def test_system_1_xml_rewards(tmp_path: Path) -> None:
    add_model(tmp_path / "Qwen" / "Qwen2.5-0.5B-Instruct", "qwen2")
    add_gsm8k(tmp_path / "openai" / "gsm8k")
    changes = {"max_steps=400": "max_steps=20", "max_completion_length=512": "max_completion_length=16"}
    report = run_cells("1-qwen-math-rl-notebook.txt", tmp_path, changes)
    assert report["steps"] == 20
    first, second = [line for line in report["log"] if "loss" in line]
    assert {f"rewards/{name}/mean" for name in report["names"]} <= set(first)
    assert report["names"][-1] == "correctness_reward_func" and len(report["names"]) == 5
    # Warm-up over a tenth of 20 steps, then a cosine: the tenth step's rate, and the last one's.
    assert first["learning_rate"] == pytest.approx(5e-6 * 0.671010, rel=1e-4) and second["learning_rate"] < 1e-7
    assert (tmp_path / "outputs" / "Qwen-0.5B-GRPO" / "checkpoint-20" / "model.safetensors").is_file()


@pytest.mark.slow
def test_system_2_four_bit_adapter_and_trackio(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("trackio")
    add_model(tmp_path / "Qwen" / "Qwen2.5-3B-Instruct", "qwen2")
    add_gsm8k(tmp_path / "openai" / "gsm8k")
    changes = {"max_steps=10,": "max_steps=4,", "    max_completion_length=1024,": "    max_completion_length=32,"}
    report = run_cells("2-advanced-multi-reward-notebook.txt", tmp_path, changes, train=True)
    assert report["steps"] == 4 and len(report["names"]) == 4
    assert {f"rewards/{name}/mean" for name in report["names"]} <= set(report["log"][0])
    adapter = tmp_path / "trl_grpo_outputs" / "checkpoint-4"
    assert (adapter / "adapter_model.safetensors").is_file() and not (adapter / "model.safetensors").exists()
    import sqlite3

    (database,) = (tmp_path / "trackio").glob("GRPO-Mathematical-Reasoning*.db")
    with sqlite3.connect(database) as connection:
        logged = [json.loads(row[0]) for row in connection.execute("select metrics from metrics order by step")]
    assert sum("train/reward" in line for line in logged) == 4, "the notebook's own run has the trainer's logs"


@pytest.mark.slow
def test_system_3_step_verified_gpt2(tmp_path: Path) -> None:
    """Not a character but the import is changed: three epochs over 64 problems, 256 completions a step."""
    add_model(tmp_path / "vicgalle" / "gpt2-open-instruct-v1", "gpt2")
    add_gsm8k(tmp_path / "gsm8k")
    report = run_cells("3-step-verified-reasoning-notebook.txt", tmp_path, {})
    assert report["steps"] == 3 and report["names"] == ["reward_fn"]
    (first, *_) = report["log"]
    assert "kl" in first or "train_loss" in first
    assert "AFTER" in report["stdout"]
    saved = tmp_path / "checkpoint-math-reasoning"
    assert (saved / "model.safetensors").is_file() and (saved / "tokenizer.json").is_file()
