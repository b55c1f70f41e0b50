"""Whole runs with a tracker: fed from the step's own metrics, continued by a resume, never in the run's way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mathgrpo.errors import UserError
from mathgrpo.runs import trackers as all_trackers
from mathgrpo.runs.tracker_kinds import TrackedRun, Tracker
from mathgrpo.training import Interrupted, plan_lines_of, train
from mathgrpo.training.train_recipe import resumed_recipe
from training.conftest import material
from training.test_loop import Quiet, recipe_of

__all__ = ["material"]


class Memory(Tracker):
    """Remembers what it is told; fails at a step if asked to."""

    opened: ClassVar[list[Memory]] = []

    def __init__(self, run: TrackedRun, fails_at: int = -1) -> None:
        self.run, self.fails_at = run, fails_at
        self.steps: dict[int, dict[str, float]] = {}
        self.rows, self.status = 0, ""
        Memory.opened.append(self)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step == self.fails_at:
            raise OSError("no space left")
        self.steps[step] = self.steps.get(step, {}) | dict(metrics)

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        self.rows += len(rows)

    def close(self, status: str) -> None:
        self.status = status


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Memory]:
    monkeypatch.setattr(Memory, "opened", [])
    monkeypatch.setattr(all_trackers, "KINDS", {"trackio": Memory, "tensorboard": lambda run: Memory(run, fails_at=2)})
    monkeypatch.setattr(all_trackers, "find_spec", lambda name: name)
    return Memory.opened


def logged(run: Path) -> dict[int, dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row.pop("step"): row for row in rows}


def test_a_tracker_is_told_what_metrics_jsonl_is(material: dict[str, Any], opened: list[Memory]) -> None:
    quiet = Quiet()
    run = train(recipe_of(material, training={"trackers": ["trackio"]}), recipe_name="tiny", progress=quiet)
    assert not [line for line in quiet.said if "trackio" in line]
    [memory] = opened
    rows = logged(run)
    for step, row in rows.items():
        assert {name: memory.steps[step][name] for name in row} == row
    # Step 0 is the evaluation before; the one after belongs to the last step.
    assert "heldout/accuracy" in memory.steps[0] and "heldout/accuracy" in memory.steps[4]
    assert memory.rows == 4 * 2 * 4 and memory.status == "finished"
    assert memory.run.config["optimizer"]["learning_rate"] == 0.01 and memory.run.name == "whole"


def test_a_resumed_run_is_the_same_to_its_tracker(material: dict[str, Any], opened: list[Memory]) -> None:
    recipe = recipe_of(material, training={"trackers": ["trackio"]})
    with pytest.raises(Interrupted):
        train(recipe, recipe_name="tiny", progress=Quiet(signal_at="step 2"))
    folder = Path(material["run"]["output_dir"]) / "whole"
    train(resumed_recipe(folder, []), recipe_name="tiny", resume=folder, progress=Quiet())
    first, second = opened
    assert (first.status, second.status) == ("interrupted", "finished")
    assert first.run.id == second.run.id and (first.run.step, second.run.step) == (0, 2)
    assert set(first.steps) | set(second.steps) == {0, 1, 2, 3, 4}


def test_one_that_fails_in_mid_run_is_said_once_and_changes_nothing(
    material: dict[str, Any], opened: list[Memory]
) -> None:
    quiet = Quiet()
    run = train(recipe_of(material, training={"trackers": ["tensorboard"]}), recipe_name="tiny", progress=quiet)
    assert [line for line in quiet.said if "tensorboard" in line] == [
        "note: tensorboard failed (no space left); the run goes on without it"
    ]
    assert list(logged(run)) == [1, 2, 3, 4] and (run / "verdict.json").is_file()


def test_a_missing_package_is_told_before_anything_is_made(
    material: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_trackers, "find_spec", lambda name: None)
    recipe = recipe_of(material, training={"trackers": ["wandb"]})
    with pytest.raises(UserError, match=r"mathgrpo\[wandb\]"):
        train(recipe, recipe_name="tiny", progress=Quiet())
    with pytest.raises(UserError, match=r"mathgrpo\[wandb\]"):
        plan_lines_of(recipe, "tiny")
    assert not Path(material["run"]["output_dir"]).exists()
    with pytest.raises(UserError, match=r"training\.trackers"):
        recipe_of(material, training={"trackers": ["mlflow"]})


def test_a_tracker_that_cannot_be_opened_fails_the_run(
    material: dict[str, Any], opened: list[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(run: TrackedRun) -> Memory:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(all_trackers, "KINDS", {"trackio": Memory, "wandb": unreachable})
    with pytest.raises(UserError, match="no route to host"):
        train(recipe_of(material, training={"trackers": ["trackio", "wandb"]}), recipe_name="tiny", progress=Quiet())
    run = Path(material["run"]["output_dir"]) / "whole"
    assert json.loads((run / "run.json").read_text())["status"] == "failed" and opened[0].status == "failed"
