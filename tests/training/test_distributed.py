"""Two processes take the same steps as one: weights, metrics, evaluations, stops, resumes and failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.config.machinery import machinery_of
from mathgrpo.training import Interrupted, train
from mathgrpo.training.train_recipe import resumed_recipe
from silent import Silent

TESTS = Path(__file__).resolve().parents[1]
STEPS = 3
VOWELS = """
import os

CALLS = []


def vowels(prompts, completions, **columns):
    return [sum(c in "aeiou" for c in turn[0]["content"]) // 2 / 4 for turn in completions]


def fails_in_the_second(prompts, completions, **columns):
    CALLS.append(len(completions))
    if os.environ.get("RANK") == "1" and len(CALLS) > 3:  # the trial and the evaluation before step 0 come first
        raise ValueError("made by the test")
    return [0.0] * len(completions)
"""
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    # Three prompts for two processes; rewards are few, so that groups without spread are skipped.
    "plain": {"grpo": {"updates_per_rollout": 2}},
    "reference": {
        "grpo": {"beta": 0.1, "advantage_scale": "batch", "loss": "gspo", "loss_settings": {"entropy_coef": 0.01}}
    },
    "adapter": {
        "model": {"lora": {"r": 2, "alpha": 4, "target_modules": ["q_proj", "v_proj"]}},
        "grpo": {"loss": "dr_grpo"},
        "run": {"engine": "plain"},
    },
}


class Signalling(Silent):
    """Asks its process to stop after the first step."""

    def step(self, metrics: Any, steps: int, seconds_left: float) -> None:
        import signal

        if metrics["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Runs:
    """The runs of this file, made once: by one process here, by two in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tiny_model().save_pretrained(folder / "model")
        tiny_tokenizer().save_pretrained(folder / "model")
        rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 21)]
        (folder / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        (folder / "my.py").write_text(VOWELS)
        self.outcomes: dict[str, list[dict[str, Any]]] = {}

    def recipe(self, name: str, reward: str = "vowels", **sections: dict[str, Any]) -> dict[str, Any]:
        """Return the sections of a run's recipe."""
        base: dict[str, dict[str, Any]] = {
            "run": {
                "output_dir": str(self.folder),
                "name": name,
                "seed": 3,
                "device": "cpu",
            },
            "model": {"path": str(self.folder / "model"), "dtype": "float32"},
            "problems": {"source": str(self.folder / "problems.jsonl"), "heldout_size": 5},
            "format": {"name": "boxed"},
            "rewards": {f"{self.folder}/my.py:{reward}": 1.0},
            "rollout": {"prompts_per_step": 3, "group_size": 4, "max_new_tokens": 8},
            "optimizer": {"learning_rate": 1e-3},
            "training": {"steps": STEPS},
            "evaluation": {"samples": 2},
        }
        return {key: {**base.get(key, {}), **sections.get(key, {})} for key in {**base, **sections}}

    def alone(self, name: str, token_budget: int = 0, **sections: dict[str, Any]) -> Path:
        """Return a run made by this process."""
        recipe = validated(Recipe, self.recipe(name, **sections))
        machinery = replace(machinery_of(recipe.run.engine), token_budget=token_budget)
        return train(recipe, recipe_name="tiny", progress=Silent(), machinery=machinery)

    def stopped_alone(self, name: str) -> Path:
        """Return a run that this process was stopped in after its first step."""
        with pytest.raises(Interrupted):
            train(validated(Recipe, self.recipe(name)), recipe_name="tiny", progress=Signalling())
        return self.folder / name

    def together(self, cases: dict[str, dict[str, Any]]) -> None:
        """Let two processes make runs, one after the other."""
        stores = [torch.distributed.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), False) for _ in cases]
        path = self.folder / "cases.json"
        path.write_text(
            json.dumps([{**case, "port": store.port} for case, store in zip(cases.values(), stores, strict=True)])
        )
        shared = dict(os.environ) | {
            "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_USE_AGENT_STORE": "True", "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{TESTS}",
            "MATHGRPO_PEER_TIMEOUT_S": "40", "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        }  # fmt: skip
        command = [sys.executable, str(TESTS / "distributed_worker.py"), str(path)]
        workers = [
            subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
            for rank in range(2)
        ]
        try:
            errors = [worker.communicate(timeout=80)[1].decode() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        self.codes = [worker.returncode for worker in workers]
        for i, name in enumerate(cases):
            files = [self.folder / f"outcome-{i}-{rank}.json" for rank in range(2)]
            self.outcomes[name] = [
                json.loads(file.read_text()) if file.is_file() else {"ended": "process", "text": errors[rank]}
                for rank, file in enumerate(files)
            ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("together"))
    cases: dict[str, dict[str, Any]] = {}
    for name, sections in VARIANTS.items():
        cases[name] = {"recipe": made.recipe(f"{name}-2", **sections)}
    cases["stopped"] = {"recipe": made.recipe("stopped"), "stop_after": 1}
    cases["resumed"] = {"resume": str(made.stopped_alone("resumed"))}
    cases["out of memory"] = {"recipe": made.recipe("memory-2"), "fault": "out of memory", "token_budget": 250}
    cases["weights"] = {"recipe": made.recipe("weights"), "fault": "weights"}
    cases["not a number"] = {"recipe": made.recipe("nan"), "fault": "not a number"}
    cases["fails"] = {"recipe": made.recipe("fails", "fails_in_the_second")}  # ends process 0, so it is the last
    made.together(cases)
    made.alone("memory-1", token_budget=250)
    for name, sections in VARIANTS.items():
        made.alone(f"{name}-1", **sections)
    made.alone("whole")
    yield made


def weights(run: Path, step: int = STEPS) -> torch.Tensor:
    """Return all weights of a checkpoint in one row, in double precision."""
    folder = run / "checkpoints" / f"step-{step}"
    [path] = [p for p in folder.glob("*.safetensors") if p.name != "optimizer.safetensors"]
    return torch.cat([tensor.double().flatten() for _, tensor in sorted(load_file(path).items())])


def metrics(run: Path) -> list[dict[str, float]]:
    """Return a run's metrics but for speed, and for the rounding that the sampling difference is."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    left_out = ("time/", "tokens_per_s", "memory/", "rows_per_decode", "sampling/", "mfu/", "roofline/")
    return [{name: value for name, value in row.items() if not name.startswith(left_out)} for row in rows]


def completions(run: Path) -> list[list[str]]:
    lines = (run / "rollouts.jsonl").read_text().splitlines()
    return [[completion["text"] for completion in json.loads(line)["completions"]] for line in lines]


def assert_same_run(one: Path, two: Path, start: torch.Tensor | None = None) -> None:
    assert completions(one) == completions(two)
    for row, other in zip(metrics(one), metrics(two), strict=True):
        # One of 22,000 weights may move by less than its last bit in one order of addition, and not in another.
        assert other.pop("weights_moved") == pytest.approx(row.pop("weights_moved"), abs=5e-4)
        assert other == pytest.approx(row, rel=1e-5, abs=1e-7)
    whole, shared = weights(one), weights(two)
    assert (whole - shared).norm() <= 1e-6 * whole.norm()
    if start is not None:  # and as a share of what was learnt
        assert (whole - shared).norm() <= 1e-3 * (whole - start).norm()


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_take_the_steps_of_one(runs: Runs, name: str) -> None:
    assert [outcome["ended"] for outcome in runs.outcomes[name]] == ["finished"] * 2, runs.outcomes[name]
    one, two = runs.folder / f"{name}-1", runs.folder / f"{name}-2"
    path = runs.folder / "model" / "model.safetensors"
    start = torch.cat([tensor.double().flatten() for _, tensor in sorted(load_file(path).items())])
    assert_same_run(one, two, start if name != "adapter" else None)
    assert len(metrics(two)) == STEPS
    if name == "plain":  # the case has groups that are skipped, and others
        zero = [row["frac_reward_zero_std"] for row in metrics(one)]
        assert max(zero) > 0 and min(zero) < 1


@pytest.mark.parametrize("name", VARIANTS)
def test_evaluations_are_shared_out_and_put_together_in_order(runs: Runs, name: str) -> None:
    for evaluation in ("before", "after"):
        one, two = [
            [
                json.loads(line)
                for line in (runs.folder / f"{name}-{n}/eval/{evaluation}.jsonl").read_text().splitlines()
            ]
            for n in (1, 2)
        ]
        assert one == two and len(one) >= 5


def test_one_process_writes_the_folder(runs: Runs) -> None:
    folder = runs.folder / "plain-2"
    info = json.loads((folder / "run.json").read_text())
    assert (info["status"], info["processes"], info["steps_done"]) == ("finished", 2, STEPS)
    assert len((folder / "rollouts.jsonl").read_text().splitlines()) == 3 * STEPS
    assert (folder / "verdict.json").is_file()


def test_a_stop_asked_of_the_main_process_stops_both_and_one_goes_on(runs: Runs) -> None:
    assert runs.outcomes["stopped"] == [{"ended": "interrupted", "exit_code": 143}] * 2
    folder = runs.folder / "stopped"
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    train(resumed_recipe(folder, []), recipe_name="tiny", resume=folder, progress=Silent())
    assert_same_run(runs.folder / "whole", folder)


def test_two_go_on_with_what_one_began(runs: Runs) -> None:
    assert [outcome["ended"] for outcome in runs.outcomes["resumed"]] == ["finished"] * 2
    assert_same_run(runs.folder / "whole", runs.folder / "resumed")


def test_memory_that_runs_out_in_one_process_makes_the_budget_smaller_in_both(runs: Runs) -> None:
    assert [outcome["ended"] for outcome in runs.outcomes["out of memory"]] == ["finished"] * 2
    one, two = runs.folder / "memory-1", runs.folder / "memory-2"
    assert_same_run(one, two)
    budgets = [json.loads((run / f"checkpoints/step-{STEPS}/training_state.json").read_text())["token_budget"]
               for run in (one, two)]  # fmt: skip
    assert budgets[1] < budgets[0] == 250


def test_weights_that_differ_end_the_run(runs: Runs) -> None:
    told, other = runs.outcomes["weights"]
    assert told["text"].startswith("after step 2: the weights of process 1 are no longer those of process 0")
    assert told["ended"] == "UserError" and other == {"ended": "silent", "exit_code": 1}
    assert len(metrics(runs.folder / "weights")) == 1


def test_a_loss_that_is_not_finite_in_one_process_is_told_by_the_main_one(runs: Runs) -> None:
    main, other = runs.outcomes["not a number"]
    assert main["ended"] == "UserError" and "not finite" in main["text"]
    assert other == {"ended": "silent", "exit_code": 1}
    assert len((runs.folder / "nan" / "failed-step-1.jsonl").read_text().splitlines()) == 3


def test_a_failure_in_one_process_ends_both(runs: Runs) -> None:
    main, failing = runs.outcomes["fails"]
    # It is ended where no exception reaches it, or leaves when it finds the other gone.
    assert main["ended"] in ("process", "silent") and (main["ended"] == "silent" or runs.codes[0] == 1)
    assert failing["ended"] == "UserError" and "made by the test" in failing["text"]
    assert json.loads((runs.folder / "fails" / "run.json").read_text())["status"] == "failed"
