"""Whole runs of a tiny model: the run folder, exact resume, clean stops, and what is refused before step 0."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config import Recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluation_names, read_evaluation
from mathgrpo.runs.checkpoint import checkpoints
from mathgrpo.runs.progress import TextProgress
from mathgrpo.training import Interrupted, plan_lines_of, train
from mathgrpo.training.train_recipe import resumed_recipe


class Quiet(TextProgress):
    """Keeps what is said, and can send a signal at a step."""

    def __init__(self, signal_at: str = "") -> None:
        super().__init__()
        self.said: list[str] = []
        self._signal_at = signal_at

    def say(self, text: str) -> None:
        self.said.append(text)

    def doing(self, what: str, done: int, total: int) -> None:
        self._maybe_stop(what)

    def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float) -> None:
        super().step(metrics, steps, seconds_left)
        self._maybe_stop(f"step {metrics['step']}")

    def _maybe_stop(self, moment: str) -> None:
        if moment == self._signal_at:
            os.kill(os.getpid(), signal.SIGINT)


def recipe_of(material: dict[str, Any], **sections: dict[str, Any]) -> Recipe:
    merged = {name: {**material.get(name, {}), **sections.get(name, {})} for name in {*material, *sections}}
    return validated(Recipe, merged)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step}"
    [path] = [p for p in folder.glob("*.safetensors") if p.name != "optimizer.safetensors"]
    return load_file(path)


def metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "tokens_per_s", "mfu/", "roofline/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def test_a_run_leaves_the_folder_the_contract_names(material: dict[str, Any]) -> None:
    quiet = Quiet()
    run = train(recipe_of(material), recipe_name="tiny", command=["mathgrpo", "train", "a b"], progress=quiet)
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # warm-up 25 % of 4 = 1 step at 0; then (4 - s) / 3
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.0, 0.01, 0.01 * 2 / 3, 0.01 / 3])
    assert {
        "reward",
        "reward_std",
        "accuracy",
        "format_rate",
        "worked_rate",
        "frac_reward_zero_std",
        "entropy",
        "grad_norm",
        "loss",
        "clip_ratio/low",
        "completions/mean_length",
        "completions/clipped_ratio",
        "weights_moved",
        "sampling/logprob_difference/max",
    } <= set(rows[0])
    assert rows[0]["weights_moved"] == 0 < rows[1]["weights_moved"]
    assert max(row["sampling/logprob_difference/max"] for row in rows) < 1e-4
    groups = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert len(groups) == 8
    assert all(abs(sum(c["advantage"] for c in group["completions"])) < 1e-3 for group in groups)
    assert evaluation_names(run) == ["after", "before", "step-2"]
    assert len(read_evaluation(run, "after").records) == 4
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["command"], info["engine"]) == ("finished", "mathgrpo train 'a b'", "native")
    assert json.loads((run / "verdict.json").read_text())["heldout"]["line"] in quiet.said
    assert [path.name for path in checkpoints(run)] == ["step-2", "step-4"]
    assert not list(run.rglob("*.tmp")) and not list(run.rglob("*.bin")) and not list(run.rglob("*.p[kt]*"))


def test_a_checkpoint_is_a_model_for_transformers(material: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(recipe_of(material, training={"steps": 2}), recipe_name="tiny", progress=Quiet())
    folder = run / "checkpoints" / "step-2"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model.get_input_embeddings().weight, weights(run, 2)["model.embed_tokens.weight"])
    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny_tokenizer().chat_template


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"grpo": {"beta": 0.1, "updates_per_rollout": 2}},
        {
            "model": {"lora": {"r": 2, "alpha": 4, "dropout": 0.2, "target_modules": ["q_proj", "v_proj"]}},
            "grpo": {"beta": 0.1},
        },
    ],
    ids=["full", "full with reference", "adapter with dropout"],
)
def test_two_steps_resume_two_steps_equals_four_bit_for_bit(material: dict[str, Any], sections: dict[str, Any]) -> None:
    whole = train(recipe_of(material, **sections), recipe_name="tiny", progress=Quiet())
    halves = recipe_of(material, **(sections | {"run": {"name": "halves"}}))
    with pytest.raises(Interrupted) as stopped:
        train(halves, recipe_name="tiny", progress=Quiet(signal_at="step 2"))
    folder = Path(halves.run.output_dir) / "halves"
    assert stopped.value.exit_code == 130
    assert str(stopped.value) == f"stopped after step 2 of 4; resume with: mathgrpo train --resume {folder}"
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    train(resumed_recipe(folder, []), recipe_name="tiny", resume=folder, progress=Quiet())
    one, two = weights(whole, 4), weights(folder, 4)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    start = weights(whole, 2)
    assert not all(torch.equal(one[name], start[name]) for name in one)
    assert metrics(whole) == metrics(folder)
    assert (whole / "rollouts.jsonl").read_text() == (folder / "rollouts.jsonl").read_text()
    assert evaluation_names(whole) == evaluation_names(folder)


def test_a_stop_during_a_rollout_abandons_the_step_and_nothing_else(material: dict[str, Any]) -> None:
    whole = train(recipe_of(material), recipe_name="tiny", progress=Quiet())
    halves = recipe_of(material, run={"name": "halves"}, training={"checkpoint_every": 0})

    class StopInThird(Quiet):
        def stage(self, run: Any, what: str) -> None:
            if what == "rollout" and sum(line.startswith("step ") for line in self.said) - len(self.plan) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        @property
        def plan(self) -> list[str]:
            return [line for line in self.said if line.startswith("step      ")]

    with pytest.raises(Interrupted) as stopped:
        train(halves, recipe_name="tiny", progress=StopInThird())
    assert stopped.value.exit_code == 143
    folder = Path(halves.run.output_dir) / "halves"
    assert [path.name for path in checkpoints(folder)] == ["step-2"]
    train(resumed_recipe(folder, []), recipe_name="tiny", resume=folder, progress=Quiet())
    assert all(torch.equal(w, weights(folder, 4)[name]) for name, w in weights(whole, 4).items())


def test_a_stop_before_the_first_step_can_be_resumed(material: dict[str, Any]) -> None:
    recipe = recipe_of(material, training={"steps": 1})
    with pytest.raises(Interrupted, match="stopped after step 0 of 1"):
        train(recipe, recipe_name="tiny", progress=Quiet(signal_at="evaluation before"))
    folder = Path(recipe.run.output_dir) / "whole"
    assert not checkpoints(folder)
    train(resumed_recipe(folder, []), recipe_name="tiny", resume=folder, progress=Quiet())
    assert evaluation_names(folder) == ["after", "before"]


def test_a_finished_run_goes_on_when_it_gets_more_steps(material: dict[str, Any]) -> None:
    short = recipe_of(
        material, training={"steps": 2, "evaluate_every": 0}, optimizer={"schedule": "constant", "warmup_ratio": 0.0}
    )
    run = train(short, recipe_name="tiny", progress=Quiet())
    with pytest.raises(UserError, match="is finished"):
        train(resumed_recipe(run, []), recipe_name="tiny", resume=run, progress=Quiet())
    train(resumed_recipe(run, ["training.steps=3"]), recipe_name="tiny", resume=run, progress=Quiet())
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    assert json.loads((run / "run.json").read_text())["resumed_after"] == [2]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the operating system refuse files above this size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_the_older_one_whole(
    material: dict[str, Any],
) -> None:
    recipe = recipe_of(material, training={"steps": 2, "checkpoint_every": 1, "evaluate_every": 0})

    class FullAfterOne(Quiet):
        def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float) -> None:
            if metrics["step"] == 2:
                limit.__enter__()

    limit = largest_file(50_000)
    with pytest.raises(UserError) as full:
        try:
            train(recipe, recipe_name="tiny", progress=FullAfterOne())
        finally:
            limit.__exit__(None, None, None)
    assert "the checkpoint cannot be written" in str(full.value) and "\n" not in str(full.value)
    run = Path(recipe.run.output_dir) / "whole"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-1"]
    assert weights(run, 1)
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    train(resumed_recipe(run, []), recipe_name="tiny", resume=run, progress=Quiet())
    assert [path.name for path in checkpoints(run)] == ["step-1", "step-2"]


def test_only_the_last_checkpoints_are_kept(material: dict[str, Any]) -> None:
    recipe = recipe_of(material, training={"checkpoint_every": 1, "evaluate_every": 0})
    run = train(recipe, recipe_name="tiny", progress=Quiet())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-3", "step-4"]


def test_weights_that_are_no_numbers_stop_the_run_with_the_batch_on_disk(material: dict[str, Any]) -> None:
    recipe = recipe_of(
        material, optimizer={"learning_rate": 0.99, "warmup_ratio": 0.0}, training={"evaluate_every": 0},
        run={"engine": "plain"},
    )  # fmt: skip

    class Spoil(Quiet):
        """Spoils a gradient from outside, as a faulty device would, once a step has gone well."""

        def step(self, metrics: Mapping[str, float], steps: int, seconds_left: float) -> None:
            handles.append(torch.nn.modules.module.register_module_forward_hook(spoil))

    def spoil(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: gradient * float("nan"))

    handles: list[Any] = []
    with pytest.raises(UserError, match=r"step 2: .*not finite.*the last good weights are in .*step-1") as broken:
        try:
            train(recipe, recipe_name="tiny", progress=Spoil())
        finally:
            for handle in handles:
                handle.remove()
    assert "\n" not in str(broken.value)
    run = Path(recipe.run.output_dir) / "whole"
    assert all(torch.isfinite(tensor).all() for tensor in weights(run, 1).values())
    [first, _] = [json.loads(line) for line in (run / "failed-step-2.jsonl").read_text().splitlines()]
    assert len(first["completions"][0]["ids"]) == len(first["completions"][0]["sampling_logprobs"])


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"rollout": {"max_new_tokens": 2000}}, r"more than the model's context of 1024; use at most"),
        ({"rollout": {"prompts_per_step": 18}}, r"only 16 training problems"),
        ({"problems": {"source": "none.jsonl"}}, r"no such file"),
        ({"problems": {"columns": {"answer": "gold"}}}, r'"gold"'),
        ({"model": {"path": "./none"}}, r"no such folder"),
        ({"rewards": {"corect": 1.0}}, r'did you mean "correct"'),
    ],
)
def test_bad_input_stops_before_step_0_and_leaves_nothing(material: dict[str, Any], sections: Any, words: str) -> None:
    recipe = recipe_of(material, **sections)
    with pytest.raises(UserError, match=words) as refused:
        train(recipe, recipe_name="tiny", progress=Quiet())
    assert "\n" not in str(refused.value)
    assert not Path(recipe.run.output_dir).exists()


def test_a_gold_that_cannot_be_read_stops_before_step_0(material: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "problems.jsonl").open("a") as file:
        file.write('\n{"question": "How many?", "answer": ""}')
    with pytest.raises(UserError):
        train(recipe_of(material), recipe_name="tiny", progress=Quiet())
    assert not (tmp_path / "runs").exists()


def test_the_plan_counts_and_writes_nothing(material: dict[str, Any], tmp_path: Path) -> None:
    text = "\n".join(plan_lines_of(recipe_of(material, evaluation={"samples": 2}), "tiny"))
    count = sum(p.numel() for p in tiny_model().parameters())
    assert f"{count:,} parameters, all train" in text
    assert "2 prompts × 4 completions = 8, at most 64 sampled tokens" in text
    assert "4 steps, 1 update(s) each, 0.5 epochs, 32 completions" in text
    assert "before and after, every 2 steps: 12 completions each (greedy and 2 samples)" in text
    assert f"optimizer {8 * count / 1e6:.1f} MB" in text
    assert not (tmp_path / "runs").exists()


def test_the_best_checkpoint_stays_and_is_named(material: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four evaluations, the one after step 1 the best; only the newest checkpoint is kept besides."""
    from mathgrpo.evaluation.records import Evaluation

    accuracies = iter([0.0, 0.75, 0.5, 0.75, 0.25])
    summary = Evaluation.summary
    monkeypatch.setattr(Evaluation, "summary", lambda self: summary(self) | {"accuracy": current[0]})
    current = [0.0]

    class Next(Quiet):
        def doing(self, what: str, done: int, total: int) -> None:
            if not done:
                current[0] = next(accuracies)

    monkeypatch.setenv("MATHGRPO_KEEP_CHECKPOINTS", "1")
    recipe = recipe_of(material, training={"evaluate_every": 1, "checkpoint_every": 2})
    run = train(recipe, recipe_name="tiny", progress=Next())
    best = json.loads((run / "run.json").read_text())["best"]
    assert best == {"checkpoint": "checkpoints/step-1", "accuracy": 0.75}
    assert [path.name for path in checkpoints(run)] == ["step-1", "step-4"]


def test_hooks_of_the_caller_are_called_at_every_moment(material: dict[str, Any]) -> None:
    from mathgrpo.runs.hook import Hook

    seen: list[str] = []

    class Seen(Hook):
        def __getattribute__(self, name: str) -> Any:
            if name in ("begin", "before_step", "after_step", "evaluated", "end", "close"):
                seen.append(name)
            return super().__getattribute__(name)

    train(recipe_of(material, training={"steps": 2}), recipe_name="tiny", progress=Quiet(), hooks=[Seen()])
    step = ["before_step", "after_step"]
    assert seen == ["evaluated", "begin", *step, *step, "evaluated", "end", "close"]
