"""What a run shows: plain lines, and a live picture that renders at every stage."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mathgrpo.config.recipe import GrpoSection
from mathgrpo.evaluation import Evaluation, EvaluationSettings
from mathgrpo.runs.hook import TakenStep
from mathgrpo.runs.live import LiveProgress
from mathgrpo.runs.progress import LINE_WIDTH, TextProgress, step_line
from mathgrpo.runs.speedometer import StepTimes, speed_line
from mathgrpo.text import printable

run: Any = None
ROW = {"step": 3.0, "reward": 0.5, "accuracy": 0.25, "tokens_per_s": 1234.0, "time/step": 2.0, "time/rollout": 1.5,
       "time/reward": 0.1, "time/update": 0.4}  # fmt: skip
FULL = ROW | {"format_rate": 1.0, "completions/mean_length": 250.0, "entropy": 0.5, "grad_norm": 1.25,
              "mfu/step": 0.124, "mfu/update": 0.2, "roofline/rollout": 0.31, "memory/peak_gb": 0.74}  # fmt: skip


def picture(
    rows: list[dict[str, float]], steps: int, left: float, doing: tuple[str, int, int], width: int = LINE_WIDTH
) -> str:
    progress, console = LiveProgress(), Console(file=io.StringIO(), width=width)
    for row in rows:
        progress.step(row, steps, left)
    progress.doing(*doing)
    console.print(progress.picture())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_time_left_is_the_mean_step_and_the_evaluations_to_come() -> None:
    progress, evaluation = TextProgress(), Evaluation((), EvaluationSettings(8))
    run: Any = SimpleNamespace(task=SimpleNamespace(steps=20))
    progress.evaluate_every = 5
    progress.evaluated(run, "before", evaluation, 20.0)
    progress.evaluated(run, "before-templates", evaluation, 10.0)
    for number, seconds in ((1, 1.0), (2, 3.0)):
        progress.after_step(run, TakenStep(number, [], {"step": number}, GrpoSection(), StepTimes(0, 0, 0), seconds))
    assert progress.seconds_left(20, 10) == 10 * 2.0 + 3 * 30.0  # after step 10, after 15, at the end
    progress.evaluate_every = 0
    assert progress.seconds_left(20, 10) == 10 * 2.0 + 30.0


def test_one_of_many_runs_shows_only_steps_and_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TextProgress(brief=True)
    progress.told(run, "model       tiny")
    progress.noted(run, "a note")
    progress.step(ROW, 60, 12.0)
    progress.evaluated(run, "step-3", Evaluation((), EvaluationSettings(8)), 1.0)
    step, evaluation = capsys.readouterr().out.splitlines()
    assert step.startswith("step 3/60") and evaluation.startswith("  evaluation step-3: accuracy")


def test_the_picture_before_the_first_step_and_after() -> None:
    assert "evaluation before" in picture([], 0, 0.0, ("evaluation before", 10, 500))
    shown = picture([ROW], 60, 300.0, ("rollout", 0, 0))
    for words in ("step 3 of 60", "5 min 00 s left", "25.0 %", "1,234", "rollout 75 %", "reward 5 %", "update 20 %"):
        assert words in shown


@pytest.mark.parametrize("width", [40, 50, 60, 80, 120])
@pytest.mark.parametrize("large", [1.0, 1000.0])
def test_a_narrow_terminal_has_fewer_columns_and_no_number_cut(width: int, large: float) -> None:
    sizes = {"reward": 0.512 * large, "tokens_per_s": 123456 * large, "time/step": 81.25 * large}
    row = FULL | sizes | {"step": 12345.0}
    lines = picture([row, ROW], 99999, 12345.0, ("evaluation before", 1000, 1319), width=width).splitlines()
    whole = {
        f"{sizes['reward']:.3f}",
        f"{sizes['tokens_per_s']:,.0f}",
        f"{sizes['time/step']:.1f}",
        "12345",
        "25.0",
        "%",
    }
    whole |= {"12345", "250", "1.250", "0.500", "100", "12", "2.0", "1,234", "3"}
    (head,) = [i for i, line in enumerate(lines) if "reward" in line and "step" in line]
    assert set(" ".join(lines[head + 1 : head + 3]).split()) <= whole
    assert {"step", "reward", "correct"} <= set(lines[head].split()) and all(len(line) <= width for line in lines)
    assert "\u2026" not in "".join(lines) and (width < 80 or "tok/s" in lines[head])


def test_markup_and_control_characters_are_only_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("[red]\x1b[31m\u202e🙂\n") == "[red]\\x1b[31m\\u202e🙂\n"
    assert "[bold]" in picture([ROW], 60, 0.0, ("[bold]", 0, 0))
    with LiveProgress() as progress:
        progress.say("[bold]x[/bold] [/nothing] \x1b[31m")
        progress.step(ROW, 60, 12.0)
        progress.stage(run, "update")
    out = capsys.readouterr().out
    assert "[bold]x[/bold] [/nothing] \\x1b[31m" in out


def test_text_progress_names_an_evaluation_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TextProgress()
    for done in (0, 5, 10):
        progress.doing("evaluation before", done, 10)
    progress.stage(run, "rollout")
    progress.step(ROW, 60, 12.0)
    assert capsys.readouterr().out.splitlines() == [
        "evaluation before: 10 completions",
        "step 3/60  reward 0.500  correct 25 %  1,234 tok/s  2.0 s  12 s left",
    ]


def test_text_progress_tells_speed_after_the_first_step_and_then_every_ten(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TextProgress()
    for step in range(1, 13):
        progress.step(FULL | {"step": float(step), "roofline/rollout": 0.3 if step == 1 else 0.4}, 60, 12.0)
    lines = capsys.readouterr().out.splitlines()
    rest = "%)  reward 5 %  update 20 % (MFU 20 %)  0.7 GB"
    assert [i for i, line in enumerate(lines) if line.startswith("time")] == [1, 11]
    assert lines[1] == f"time  rollout 75 % (roofline 30 {rest}"
    assert lines[11] == f"time  rollout 75 % (roofline 40 {rest}"  # steps 2 to 10


def test_a_run_that_starts_in_the_middle_or_measures_no_time_has_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TextProgress()
    progress.step({"step": 7.0, "reward": 0.1}, 8, 5.0)
    progress.step({"step": 10.0, "reward": 0.1}, 10, 0.0)
    lines = ["step 7/8  reward 0.100  5 s left", "step 10/10  reward 0.100  0 s left"]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("steps", [60, 123_456])
@pytest.mark.parametrize("left", [0.0, 12.0, 100_000.0])
def test_nothing_shown_is_wider_than_a_terminal_of_80_columns(steps: int, left: float) -> None:
    wide = FULL | {"step": float(steps), "reward": -12.345, "tokens_per_s": 1_234_567.0, "accuracy": 1.0,
                   "time/step": 1234.5, "time/rollout": 1000.0, "memory/peak_gb": 141.0}  # fmt: skip
    for row in (FULL, wide):
        line = step_line(row, steps, left)
        assert len(line) <= LINE_WIDTH and "MFU 12 %" in line and "tok/s" in line
        assert len(speed_line([row])) <= LINE_WIDTH
        shown = picture([row], steps, 740.0, ("rollout", 0, 0))
        assert max(map(len, shown.splitlines())) <= LINE_WIDTH
    # Nothing is cut or wrapped at 80 columns: a wider terminal shows the same.
    rows, arguments = [FULL] * 8, (60, 740.0, ("rollout", 0, 0))
    at_80, at_200 = (picture(rows, *arguments, width=width) for width in (LINE_WIDTH, 200))
    assert [line.rstrip() for line in at_80.splitlines()] == [line.rstrip() for line in at_200.splitlines()]
    assert "rollout 75 % (roofline 31 %)  reward 5 %  update 20 % (MFU 20 %)  0.7 GB" in at_80
