"""A recipe's task decides what is correct: a model that solves Countdown is 100 % correct wherever that is said."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mathgrpo.cli.app
from evaluation.countdown_task import ROWS, Solver, countdown_recipe, solution
from fakes import tiny_tokenizer
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.config.sft_recipe import SftRecipe
from mathgrpo.errors import UserError
from mathgrpo.evaluation import evaluation_names, read_evaluation, read_verdicts
from mathgrpo.formats import get_format
from mathgrpo.problems.traced import load_worked_sets
from mathgrpo.publishing.card import run_card
from mathgrpo.publishing.export import export_run
from mathgrpo.publishing.source import find_source
from mathgrpo.report import write_report
from mathgrpo.report.read_run import load_run
from mathgrpo.rewards import recipe_suite
from mathgrpo.runs.progress import TextProgress
from mathgrpo.supervised.sft import run_sft
from mathgrpo.sweep.one_trial import value_of
from mathgrpo.training import train
from mathgrpo.training.train_recipe import resumed_recipe

BY = "(correct by countdown ≥ 1)"


class Said(TextProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A run whose model solves nothing before training and everything from the first step on, and what it said."""
    folder = tmp_path_factory.mktemp("countdown")

    class Learner(Solver):
        """Solves what is asked from the first rollout on."""

        def generate(self, prompts: Any, group_size: int, sampling: Any) -> Any:
            self.right = self.right or len(prompts) == 2  # a step's prompts; an evaluation has 4
            return super().generate(prompts, group_size, sampling)

    Learner.right = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mathgrpo.training.prepare.build_engine", Learner)
        said = Said()
        run = train(countdown_recipe(folder), recipe_name="countdown", progress=said)
        write_report(run)
        patch.setattr("mathgrpo.publishing.export_check.build_engine", Solver)
        patch.setattr("mathgrpo.rollout.build_engine", Solver)
        yield run, said.lines


def call(*arguments: Any) -> int:
    """Call the command line here."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["mathgrpo", *map(str, arguments)])
        mathgrpo.cli.app.main()
    return int(ended.value.code or 0)


def test_training_and_what_it_says(solved: tuple[Path, list[str]]) -> None:
    run, said = solved
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["accuracy"] for row in metrics] == [1.0, 1.0] and metrics[0]["reward/countdown"] == 1.0
    logged = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert {one["verdict"] for group in logged for one in group["completions"]} == {"correct"}
    assert json.loads((run / "run.json").read_text())["best"]["accuracy"] == 1.0
    plan = next(line for line in said if line.startswith("evaluation  before"))
    assert plan.endswith(BY)
    assert any(line.startswith(f"evaluation after: accuracy 100.0 %, sampled 100.0 % {BY}") for line in said)
    assert any(line.startswith(f"held-out accuracy {BY} 0.0 % → 100.0 %, +100.0 points") for line in said)
    assert any(
        line.startswith("  reward countdown 0.000 → 1.000, +1.000, the same everywhere, p = 0.125") for line in said
    )


def test_evaluations_keep_every_reward(solved: tuple[Path, list[str]]) -> None:
    before, after = (read_evaluation(solved[0], name) for name in ("before", "after"))
    assert (before.settings.correct, before.summary()["accuracy"], after.summary()["accuracy"]) == (
        "countdown >= 1",
        0,
        1,
    )
    assert {record.greedy.verdict for record in before.records} == {"wrong"}
    assert all(dict(r.greedy.rewards) == {"countdown": 1.0, "format_parts": 1.0} for r in after.records)
    summary = after.summary()
    assert summary["sampled/pass@2"] == summary["sampled/maj@2"] == summary["sampled/reward/countdown"] == 1.0
    verdict = json.loads((solved[0] / "verdict.json").read_text())["heldout"]
    assert verdict["comparison"]["correct"] == "countdown >= 1" and BY in verdict["line"]
    changes = verdict["rewards"]
    # One and the same difference everywhere: no spread, and all 2^4 signs say 2 of 16 are as far from 0.
    assert changes["countdown"]["low"] == changes["countdown"]["high"] == 1.0 and changes["countdown"]["p"] == 0.125
    assert changes["format_parts"]["outcome"] == "no significant change"
    parts = read_verdicts(solved[0])["heldout"].parts
    assert parts.total == pytest.approx(100.0)


def test_report_card_and_export(solved: tuple[Path, list[str]], tmp_path: Path) -> None:
    run = solved[0]
    page = (run / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert page.count(BY) >= 3 and "reward countdown 0.000 → 1.000" in page and "answer anywhere" not in page
    source = find_source(str(run))
    card = run_card(source, load_run(run), "me/model", "", tokenizer=tiny_tokenizer(), has_curves=False, kind="merged")
    assert f"held-out accuracy {BY} 0.0 % → 100.0 %" in card and f"name: accuracy {BY}, greedy" in card
    assert "| reward countdown (greedy) | 0 | 1 | +1.000 |" in card
    made = export_run(str(run), tmp_path / "export", check=3)
    assert made.record["checks"]["accuracy"]["after"] == 1.0 and made.record["evaluation"] == {"correct": "auto"}
    assert any(f"3 held-out problems: 100.0 % solved {BY}" in line for line in made.lines)


def test_a_sweep_says_what_judges(
    solved: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((solved[0] / "config.toml").read_text())
    sweep = ("sweep", recipe, "--trials", 1, "--validation", 2, "--param", "optimizer.learning_rate=1e-5..1e-4")
    assert call(*sweep, "--objective", "formatparts") == 2
    assert "use correct, or a reward of [rewards]: countdown, format_parts" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mathgrpo.training.prepare.build_engine", Solver)
        assert call(*sweep, "--set", "training.steps=1", "--out", tmp_path / "s", "--objective", "format_parts") == 0
    shown = capsys.readouterr().out
    assert "judged by     format_parts" in shown and "  reward 1.000" in shown
    assert 'correct = "countdown >= 1"' in (tmp_path / "s" / "best.toml").read_text(), "whatever the weights become"
    summary = json.loads((tmp_path / "s" / "trials" / "trial-001" / "eval" / "after.json").read_text())
    assert value_of(summary, "correct") == 1.0, "a sweep's own objective"
    with pytest.raises(UserError, match="applied to no validation problem"):
        value_of(summary, "correctness")


def test_eval_against_and_solve(
    solved: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = solved[0]
    assert call("eval", run, "--against", run / "eval" / "before.json", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert f"accuracy    100.0 % {BY}" in shown and "anywhere" not in shown
    assert "rewards     countdown 1.000, format_parts 1.000" in shown
    assert f"accuracy {BY} 0.0 % → 100.0 %" in shown and "better solutions" in shown
    traces = tmp_path / "traces.jsonl"
    assert call("solve", run, "--problems", run.parents[1] / "countdown.jsonl", "--keep", "correct", "--samples", 2,
                "--jsonl", traces) == 0  # fmt: skip
    assert "20 of 20 completions correct by countdown ≥ 1 (100.0 %)" in capsys.readouterr().out
    rows = [json.loads(line) for line in traces.read_text().splitlines()]
    assert len(rows) == len(ROWS) and {row["verdict"] for row in rows} == {"correct"}
    taught = load_worked_sets(ProblemsSection(source=str(traces))).train
    assert all(problem.answer.endswith("-7") for problem in taught), "what to write, not what it comes to"
    settings = {
        "run": {"output_dir": str(tmp_path), "name": "cold"}, "model": {"path": str(run)},
        "problems": {"source": str(traces)}, "stages": [{"tokens": 500}], "training": {"max_new_tokens": 100},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mathgrpo.supervised.sft.build_engine", Solver)
        cold = run_sft(SftRecipe.model_validate_json(json.dumps(settings)), "cold")
    assert read_evaluation(cold, "after").summary()["accuracy"] == 1.0
    assert f"evaluation after: accuracy {BY} 100.0 %" in capsys.readouterr().out
    assert export_run(str(cold), tmp_path / "export").record["checks"]["accuracy"]["after"] == 1.0


def test_an_evaluation_from_before_rewards_is_scored_anew(
    solved: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old" / "eval"
    old.mkdir(parents=True)
    for name in ("before.json", "before.jsonl"):
        (old / name).write_text((solved[0] / "eval" / name).read_text())
    summary = json.loads((old / "before.json").read_text())
    del summary["settings"]["correct"]
    (old / "before.json").write_text(json.dumps(summary))
    rows = [json.loads(line) for line in (old / "before.jsonl").read_text().splitlines()]
    for row in rows:
        for one in (row["greedy"], *row["samples"]):
            del one["rewards"]
            one["verdict"] = one["flexible_verdict"] = "correct"  # the target itself, which is no solution
    (old / "before.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_evaluation(old.parent, "before").summary()["accuracy"] == 1.0
    assert call("eval", solved[0], "--against", old / "before.json") == 0
    assert f"accuracy {BY} 0.0 % → 100.0 %" in capsys.readouterr().out


def test_the_criterion_can_be_given(solved: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("eval", solved[0], "--correct", "answer") == 0
    assert "accuracy    0.0 % in the format" in capsys.readouterr().out, "44 + 19 - 7 is not the number 56"
    assert call("eval", solved[0], "--correct", "countdwn") == 2
    assert '--correct="countdwn": no such reward; did you mean "countdown"?' in capsys.readouterr().err
    model, problems = solved[0].parents[1] / "model", solved[0].parents[1] / "countdown.jsonl"
    assert call("eval", model, "--problems", problems) == 0
    shown = capsys.readouterr().out
    assert "note: the problems have nums, by which the reward countdown judges" in shown
    assert call("eval", model, "--problems", problems, "--correct", "countdown") == 0
    assert f"100.0 % {BY}" in capsys.readouterr().out
    assert call("eval", solved[0], "--correct", "format_parts >= 2") == 2
    assert '--correct="format_parts >= 2": this reward pays 0 to 1' in capsys.readouterr().err


def test_a_right_equation_earns_and_is_correct(tmp_path: Path) -> None:
    recipe = countdown_recipe(tmp_path)
    suite = recipe_suite(recipe, get_format("xml"))
    columns = {name: [row[name] for row in ROWS[:2]] for name in ROWS[0]}
    scores = suite.score(["?"] * 2, [solution(ROWS[0]), solution(ROWS[1], right=False)], columns)
    assert scores.totals == (1.1, 0.1) and [graded.verdict for graded in scores.grades] == ["correct", "wrong"]


def test_a_reward_that_fails_in_an_evaluation_loses_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (tmp_path / "my.py").write_text(
        f"from pathlib import Path\n\ndef passes(completions, **columns):\n    if Path({str(broken)!r}).exists():\n"
        "        raise RuntimeError('no judge today')\n    return [1.0] * len(completions)\n"
    )

    class Breaks(Said):
        def after_step(self, run: Any, taken: Any) -> None:
            broken.touch()

    own = f"{tmp_path}/my.py:passes"
    recipe = countdown_recipe(tmp_path, rewards={"countdown": 1.0, own: 0.5}, evaluation={"correct": f"{own} >= 0.5"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mathgrpo.training.prepare.build_engine", Solver)
        with pytest.raises(UserError) as told:
            train(recipe, recipe_name="countdown", progress=Said(), hooks=[Breaks()])
        run, line = tmp_path / "runs" / "countdown", str(told.value)
        assert line.startswith(f'evaluation step-1: rewards."{own}": raised RuntimeError: no judge today')
        assert f"4 problems are in {run}/eval/step-1.jsonl" in line and "\n" not in line
        kept = [json.loads(row) for row in (run / "eval" / "step-1.jsonl").read_text().splitlines()]
        assert [len(row["greedy"]["text"]) > 20 for row in kept] == [True] * 4
        assert evaluation_names(run) == ["before"] and (run / "checkpoints" / "step-1").is_dir()
        broken.unlink()
        summary = json.loads((run / "eval" / "before.json").read_text())
        del summary["settings"]["correct"]  # as it was before there was anything else than answers
        (run / "eval" / "before.json").write_text(json.dumps(summary))
        train(resumed_recipe(run, []), recipe_name="countdown", resume=run, progress=Said())
    assert evaluation_names(run) == ["after", "before", "step-1"]
    assert read_evaluation(run, "before").settings.correct == f"{own} >= 0.5", "scored anew"
    assert read_evaluation(run, "step-1").summary()[f"reward/{own}"] == 1.0
    assert "correct by my.py:passes ≥ 0.5" in json.loads((run / "verdict.json").read_text())["heldout"]["line"]


def test_a_threshold_that_nothing_reaches_is_told(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("def half(completions, **columns):\n    return [0.5] * len(completions)\n")
    own, said = f"{tmp_path}/my.py:half", Said()
    recipe = countdown_recipe(tmp_path, rewards={own: 1.0}, evaluation={"correct": own}, training={"steps": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mathgrpo.training.prepare.build_engine", Solver)
        run = train(recipe, recipe_name="countdown", progress=said)
    note = "my.py:half pays no held-out completion 1, 0.5 at most: evaluation.correct says what counts"
    assert json.loads((run / "run.json").read_text())["notes"].count(note) == 1 and f"note: {note}" in said.lines


def test_eval_leaves_out_what_does_not_load_unless_it_decides(
    solved: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = f"{tmp_path}/gone.py:f"
    copy = tmp_path / "run"
    shutil.copytree(solved[0], copy)
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace("format_parts = 0.1", f'"{gone}" = 0.1'))
    assert call("eval", copy) == 0
    shown = capsys.readouterr().out
    assert f'note: rewards."{gone}": no such file' in shown and f"100.0 % {BY}" in shown
    assert call("eval", copy, "--correct", f"{gone} >= 1") == 2
    assert f'rewards."{gone}": no such file' in capsys.readouterr().err
