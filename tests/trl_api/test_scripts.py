"""Scripts in the manner of TRL's documentation run with "trl" replaced by "mathgrpo" in their imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trl_api.local_hub import add_gsm8k, add_model

SCRIPTS = Path(__file__).parent / "scripts"
REPORT = 'import json\nprint("REPORT", json.dumps(trainer.state.log_history), flush=True)\n'


def run_script(name: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Run a script with its import changed in a folder with local models and data; return (log_history, output)."""
    pytest.importorskip("datasets")
    add_model(folder / "Qwen" / "Qwen2-0.5B-Instruct", "qwen2")
    add_gsm8k(folder / "openai" / "gsm8k")
    (folder / "trl-lib" / "maths").mkdir(parents=True)
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1?"}], "solution": f"${i + 1}$"} for i in range(8)]
    (folder / "trl-lib" / "maths" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (SCRIPTS / name).read_text(encoding="utf-8")
    changed = re.sub(r"^from trl(\.rewards)? import", "from mathgrpo import", text, flags=re.MULTILINE)
    assert changed != text
    (folder / name).write_text(changed + REPORT, encoding="utf-8")
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=110
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    return json.loads(line.removeprefix("REPORT ")), done.stdout


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    history, _ = run_script("quickstart.py", tmp_path)
    assert [line["step"] for line in history] == [1, 2, 2] and "rewards/accuracy_reward/mean" in history[0]


def test_reward_functions(tmp_path: Path) -> None:
    history, _ = run_script("reward_functions.py", tmp_path)
    steps = [line for line in history if "loss" in line]
    assert [line["rewards/warmer/mean"] for line in steps] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert {line["rewards/math_only/mean"] for line in steps} <= {0.5, None}
    assert {line["rewards/coding_only/mean"] for line in steps} <= {0.25, None}
    assert all("accuracy" in line for line in steps)
    assert len(list((tmp_path / "rewards" / "completions").iterdir())) == 4


@pytest.mark.slow
def test_gsm8k_with_adapter_evaluation_and_resume(tmp_path: Path) -> None:
    history, output = run_script("gsm8k_lora.py", tmp_path)
    assert [line["step"] for line in history if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in history if "eval_reward" in line] == [2, 4]
    assert "rewards/soft_overlong_punishment_reward/mean" in history[0]
    assert "WATCHED" in output and "done" in output
