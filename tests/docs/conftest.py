"""One small real run for the pages that say what a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mathgrpo.config import load_recipe
from mathgrpo.report import write_report
from mathgrpo.training import train
from silent import Silent

SMALL = (
    "run.device=cpu", "problems.train_size=100", "problems.heldout_size=6", "evaluation.samples=1",
    "rollout.prompts_per_step=2", "rollout.group_size=4", "rollout.max_new_tokens=24", "grpo.beta=0.01",
    "training.steps=2", "training.checkpoint_every=1", "training.evaluate_every=1", "optimizer.warmup_ratio=0.0",
)  # fmt: skip


def small_run(folder: Path, name: str, *overrides: str) -> Path:
    """Return the folder of a run of two steps by the demo's recipe."""
    settings = [*SMALL, f"run.output_dir={folder}", f"run.name={name}", *overrides]
    run = train(load_recipe("demo", settings), recipe_name="demo", progress=Silent())
    write_report(run)
    return run


@pytest.fixture(scope="session")
def run_folder(generator: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the starter."""
    return small_run(tmp_path_factory.mktemp("runs"), "whole")


@pytest.fixture(scope="session")
def adapter_run(generator: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that trained an adapter."""
    return small_run(tmp_path_factory.mktemp("runs"), "adapter", "model.lora.r=4", "training.evaluate_every=0")
