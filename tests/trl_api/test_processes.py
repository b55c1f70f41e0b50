"""GRPOTrainer under torchrun: two processes take the steps of one with the same batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).resolve().parents[1]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMPARED = (
    "loss",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "kl",
    "num_tokens",
    "epoch",
    "share",
    "learning_rate",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The script run by one process, and by two."""
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(TESTS)])
    environment = dict(os.environ) | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    made = []
    for launcher in ([], LAUNCHER):
        folder = tmp_path_factory.mktemp("script")
        command = [sys.executable, *launcher, str(TESTS / "trl_api" / "processes_worker.py"), str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        made.append(folder)
    return made[0], made[1]


def outcome(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"outcome-{rank}.json").read_text())  # type: ignore[no-any-return]


def weights(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensor.double().flatten() for _, tensor in sorted(tensors.items())])


def test_weights_logs_and_evaluations_are_those_of_one_process(folders: tuple[Path, Path]) -> None:
    one, two = folders
    whole, shared = weights(one / "model"), weights(two / "model")
    assert (whole - shared).norm() <= 1e-6 * whole.norm()
    assert (whole - weights(one / "checkpoint-2")).norm() > 1e-4 * whole.norm()
    for log, other in zip(outcome(one)["logs"], outcome(two)["logs"], strict=True):
        for name in set(COMPARED) & set(log):
            assert other[name] == pytest.approx(log[name], rel=1e-5, abs=1e-7), name
    evaluated, other = outcome(one)["evaluated"], outcome(two)["evaluated"]
    assert evaluated["eval_reward"] == pytest.approx(other["eval_reward"])
    assert outcome(two, 1)["logs"][0]["reward"] == outcome(two, 0)["logs"][0]["reward"]


def test_what_one_process_wants_all_do(folders: tuple[Path, Path]) -> None:
    assert {outcome(folder, rank)["steps"] for folder, rank in zip((*folders, folders[1]), (0, 0, 1), strict=True)} == {
        4
    }


def test_the_completions_table_is_in_the_order_of_one_process(folders: tuple[Path, Path]) -> None:
    one, two = (
        [json.loads(line) for line in (folder / "completions" / "completions_00002.jsonl").read_text().splitlines()]
        for folder in folders
    )
    assert [row["completion"] for row in one] == [row["completion"] for row in two]
    assert [row["gold"] for row in one] == [row["gold"] for row in two] and one[0]["gold"]


def test_a_resumed_run_of_two_equals_one_that_went_through(folders: tuple[Path, Path]) -> None:
    two = folders[1]
    assert torch.equal(weights(two / "again"), weights(two / "checkpoint-4"))
    assert (two / "checkpoint-2" / "1_rng_state.safetensors").is_file()
