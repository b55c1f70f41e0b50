"""Sweeps: real ones of a tiny model, and the logic around a trial with trials that only pretend to train."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config import Recipe, load_recipe
from mathgrpo.config.load_recipe import validated
from mathgrpo.errors import UserError
from mathgrpo.problems import load_problem_sets
from mathgrpo.sweep.one_trial import OnEvaluation, Pruned
from mathgrpo.sweep.run_sweep import (
    SweepSettings,
    create_sweep,
    finished,
    open_study,
    open_sweep,
    result_lines,
    run_sweep,
)
from mathgrpo.sweep.space import Parameter
from mathgrpo.training import Interrupted

pytest.importorskip("optuna")

RATE = Parameter("optimizer.learning_rate", 1e-4, 1e-2, log=True)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    for name, numbers in (("train", range(40)), ("test", range(100, 110))):
        rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "hint": f"h{i}"} for i in numbers]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return validated(Recipe, {
        "run": {"output_dir": str(tmp_path / "runs")},
        "model": {"path": str(tmp_path / "model")},
        "problems": {"source": str(tmp_path / "data")},
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 6},
        "training": {"steps": 2},
    })  # fmt: skip


def settings(trials: int = 3, **changes: Any) -> SweepSettings:
    group_size = Parameter("rollout.group_size", choices=(2, 3))
    return SweepSettings(
        **({"parameters": (RATE, group_size), "trials": trials, "validation_size": 5, "pruner": "median"} | changes)
    )


def silent(text: str) -> None:
    pass


def pretend(*accuracies: float) -> Any:
    """A trial that trains nothing: it reports accuracies of trial i as accuracies[i] times its step."""
    ran: list[int] = []

    def run(recipe: Recipe, on_evaluation: OnEvaluation) -> float:
        number = len(ran)
        ran.append(number)
        for step in (1, 2, 3):
            if on_evaluation(step, accuracies[number] * step):
                raise Pruned
        return accuracies[number] * 4

    return run, ran


@pytest.mark.slow
def test_a_sweep_of_three_trials_is_three_runs_and_a_recipe(recipe: Recipe, tmp_path: Path) -> None:
    folder, said = tmp_path / "sweep", []
    create_sweep(folder, recipe, settings())
    winner = run_sweep(folder, *open_sweep(folder), said.append)
    runs = sorted((folder / "trials").iterdir())
    assert [run.name for run in runs] == ["trial-001", "trial-002", "trial-003"]
    for run in runs:
        assert json.loads((run / "run.json").read_text())["status"] == "finished"
        assert (run / "eval" / "step-1.json").is_file() and (run / "eval" / "after.json").is_file()
        assert json.loads((run / "eval" / "after.json").read_text())["problems"] == 5
    rates = {tomllib.loads((run / "config.toml").read_text())["optimizer"]["learning_rate"] for run in runs}
    assert len(rates) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    best = load_recipe(str(folder / "best.toml"))
    assert best.optimizer.learning_rate == winner.params["optimizer.learning_rate"]
    assert best.problems == recipe.problems and best.run == recipe.run and best.training == recipe.training
    lines = result_lines(folder, settings(), winner, finished(open_study(folder, 0, "median")))
    assert lines[-1].startswith(f"next    mathgrpo train {folder / 'best.toml'}") and len(lines) == 8
    # More trials later: the three are kept, and the fourth draws other values.
    more = settings(trials=4)
    run_sweep(folder, recipe, more, said.append)
    assert (
        len(list((folder / "trials").iterdir())) == 4 and len({line for line in said if line.startswith("trial ")}) == 4
    )


def test_ctrl_c_in_a_trial_goes_on_in_the_same_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from mathgrpo.training import loop

    folder, plain = tmp_path / "sweep", loop.take_step

    def interrupted(run: Any) -> Any:
        taken = plain(run)
        if run.step == 1:
            signal.raise_signal(signal.SIGINT)
        return taken

    create_sweep(folder, recipe, settings(trials=1))
    monkeypatch.setattr(loop, "take_step", interrupted)
    with pytest.raises(Interrupted, match=r"stopped in trial 1; resume with: mathgrpo sweep --resume .*sweep$") as stop:
        run_sweep(folder, *open_sweep(folder), silent)
    assert stop.value.exit_code == 130
    monkeypatch.setattr(loop, "take_step", plain)
    winner = run_sweep(folder, *open_sweep(folder), silent)
    [run] = (folder / "trials").iterdir()
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "finished" and info["resumed_after"] == [1] and winner.number == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_trials_never_see_the_held_out_problems(recipe: Recipe, tmp_path: Path) -> None:
    seen: list[Recipe] = []

    def run(trial: Recipe, on_evaluation: OnEvaluation) -> float:
        seen.append(trial)
        return 0.5

    create_sweep(tmp_path / "sweep", recipe, settings())
    run_sweep(tmp_path / "sweep", recipe, settings(), silent, run)
    own = load_problem_sets(recipe.problems)
    sets = [load_problem_sets(trial.problems) for trial in seen]
    assert sets[0] == sets[1] == sets[2]
    assert {p.id for p in sets[0].train} | {p.id for p in sets[0].heldout} == {p.id for p in own.train}
    assert len(sets[0].heldout) == 5 and not {p.id for p in sets[0].heldout} & {p.id for p in own.heldout}
    assert sets[0].train[0].columns["hint"].startswith("h")
    assert {trial.run.name for trial in seen} == {"trial-001", "trial-002", "trial-003"}
    assert all(trial.training.evaluate_every == 1 for trial in seen)


def test_generated_problems_are_split_too(generator: None, recipe: Recipe, tmp_path: Path) -> None:
    generated = validated(Recipe, {"problems": {"train_size": 60, "heldout_size": 20}})
    create_sweep(tmp_path / "sweep", generated, settings(validation_size=10))
    own = load_problem_sets(generated.problems)
    rows = [json.loads(line) for line in (tmp_path / "sweep/problems/validation.jsonl").read_text().splitlines()]
    by_question = {problem.question: problem for problem in own.train}
    assert len(rows) == 10 and all(by_question[row["question"]].solution == row["solution"] for row in rows)


def test_a_trial_that_falls_behind_is_pruned_and_the_best_wins(recipe: Recipe, tmp_path: Path) -> None:
    run, ran = pretend(0.10, 0.12, 0.14, 0.2, 0.05, 0.22)
    create_sweep(tmp_path / "sweep", recipe, settings(trials=6))
    winner = run_sweep(tmp_path / "sweep", recipe, settings(trials=6), silent, run)
    trials = finished(open_study(tmp_path / "sweep", 0, "median"))
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4 + ["PRUNED", "COMPLETE"]
    assert trials[4].intermediate_values == {1: 0.05} and winner.number == 5 and winner.value == pytest.approx(0.88)
    unpruned, _ = pretend(0.10, 0.12, 0.14, 0.2, 0.05, 0.22)
    create_sweep(tmp_path / "all", recipe, settings(trials=6, pruner="none"))
    run_sweep(tmp_path / "all", recipe, settings(trials=6, pruner="none"), silent, unpruned)
    assert all(trial.state.name == "COMPLETE" for trial in finished(open_study(tmp_path / "all", 0, "none")))
    assert ran == list(range(6))


def test_a_pruned_trial_is_a_run_that_can_be_resumed(recipe: Recipe, tmp_path: Path) -> None:
    from mathgrpo.sweep.one_trial import run_trial
    from mathgrpo.training import train
    from mathgrpo.training.train_recipe import resumed_recipe

    trial = recipe.model_copy(update={
        "run": recipe.run.model_copy(update={"name": "t"}),
        "training": recipe.training.model_copy(update={"evaluate_every": 1, "steps": 3}),
    })  # fmt: skip
    seen: list[tuple[int, float]] = []

    def prune(step: int, accuracy: float) -> bool:
        seen.append((step, accuracy))
        return step == 2

    with pytest.raises(Pruned):
        run_trial(trial, prune)
    folder = tmp_path / "runs" / "t"
    assert seen == [(1, 0.0), (2, 0.0)]
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    train(resumed_recipe(folder, []), recipe_name="t", resume=folder)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_a_failed_trial_is_noted_and_the_next_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    count = 0

    def run(trial: Recipe, on_evaluation: OnEvaluation) -> float:
        nonlocal count
        count += 1
        if count != 2:
            raise UserError("step 3: the gradient is not finite\nmore")
        return 0.4

    said: list[str] = []
    create_sweep(tmp_path / "sweep", recipe, settings())
    winner = run_sweep(tmp_path / "sweep", recipe, settings(), said.append, run)
    assert winner.number == 1 and count == 3
    assert said.count("  failed: step 3: the gradient is not finite") == 2


def test_a_sweep_whose_first_trials_all_fail_stops(recipe: Recipe, tmp_path: Path) -> None:
    def run(trial: Recipe, on_evaluation: OnEvaluation) -> float:
        raise RuntimeError("no memory")

    create_sweep(tmp_path / "sweep", recipe, settings(trials=9))
    with pytest.raises(UserError, match=r"^sweep: the first 3 trials failed, the last with: no memory$"):
        run_sweep(tmp_path / "sweep", recipe, settings(trials=9), silent, run)


def test_a_sweep_killed_between_trials_draws_new_values(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    create_sweep(folder, recipe, settings(trials=2))
    run_sweep(folder, recipe, settings(trials=2), silent, pretend(0.1, 0.2)[0])
    run_sweep(folder, recipe, settings(trials=4), silent, pretend(0.1, 0.2)[0])
    rates = [trial.params["optimizer.learning_rate"] for trial in finished(open_study(folder, 0, "median"))]
    assert len(set(rates)) == 4


def test_wrong_folders_and_sizes_are_one_line(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--validation 30: there are 40 training problems.*use 20 or less"):
        create_sweep(tmp_path / "sweep", recipe, settings(validation_size=30))
    with pytest.raises(UserError, match=r"--resume .*: not a sweep folder"):
        open_sweep(tmp_path / "model")
    with pytest.raises(UserError, match=r"--out .*model: exists already; choose another$"):
        create_sweep(tmp_path / "model", recipe, settings())
    with pytest.raises(UserError, match=r"--out .*train\.jsonl: exists already; choose another$"):
        create_sweep(tmp_path / "data" / "train.jsonl", recipe, settings())
    create_sweep(tmp_path / "there", recipe, settings())
    with pytest.raises(UserError, match=r"--out .*: exists already; go on with it by --resume .*there, or choose"):
        create_sweep(tmp_path / "there", recipe, settings())
    (tmp_path / "there" / "sweep.db").write_text("no database" * 100)
    with pytest.raises(UserError, match=r"^.*sweep\.db: the sweep.s memory cannot be read \(.*\); begin a new sweep$"):
        run_sweep(tmp_path / "there", *open_sweep(tmp_path / "there"), silent, pretend(0.1)[0])
