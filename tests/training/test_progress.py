"""What a run shows: plain lines, and a live picture that renders at every stage."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mathgrpo.training.live import live_view
from mathgrpo.training.progress import LiveProgress, Pace, TextProgress, printable

ROW = {"step": 3.0, "reward": 0.5, "accuracy": 0.25, "tokens_per_s": 1234.0, "time/step": 2.0, "time/rollout": 1.5,
       "time/reward": 0.1, "time/update": 0.4}  # fmt: skip


def picture(*arguments: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(live_view(*arguments))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_time_left_is_the_mean_step_and_the_evaluations_to_come() -> None:
    pace = Pace()
    assert pace.seconds_left(10, 1) is None
    pace.evaluation(30.0)
    pace.step(1.0)
    pace.step(3.0)
    assert pace.seconds_left(10, 2) == 10 * 2.0 + 2 * 30.0


def test_the_picture_before_the_first_step_and_after() -> None:
    assert "evaluation before" in picture([], 0, "", ("evaluation before", 10, 500))
    shown = picture([ROW], 60, "5 min left", ("rollout", 0, 0))
    for words in ("step 3 of 60", "5 min left", "25.0 %", "1,234", "rollout 75 %", "reward 5 %", "update 20 %"):
        assert words in shown


def test_markup_and_control_characters_are_only_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("[red]\x1b[31m\u202e🙂\n") == "[red]\\x1b[31m\\u202e🙂\n"
    assert "[bold]" in picture([ROW], 60, "", ("[bold]", 0, 0))
    with LiveProgress() as progress:
        progress.say("[bold]x[/bold] [/nothing] \x1b[31m")
        progress.step(ROW, 60, 12.0)
        progress.doing("update")
    out = capsys.readouterr().out
    assert "[bold]x[/bold] [/nothing] \\x1b[31m" in out


def test_text_progress_names_an_evaluation_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TextProgress()
    for done in (0, 5, 10):
        progress.doing("evaluation before", done, 10)
    progress.doing("rollout")
    progress.step(ROW, 60, 12.0)
    assert capsys.readouterr().out.splitlines() == [
        "evaluation before: 10 completions",
        "step 3/60  reward 0.500  accuracy 25.0 %  1,234 tokens/s  2.0 s  12 s left",
    ]
