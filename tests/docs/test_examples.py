"""Questions that the pages and `--help` put to a model: the shipped starter answers each of them right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer
from typer.testing import CliRunner

from mathgrpo.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = {
    "A tower is made out of 4 pink cubes, 2 times as many black cubes, and an unknown number of green cubes. "
    "If there are 16 cubes in the tower in total, how many green cubes are there?": "4",
}
"""Question -> answer, by hand: 4 pink, 8 black, so 16 - 12 green. A page that asks something else has it added here."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("notebooks/*.ipynb")]


def asked() -> set[str]:
    """Return every question that a documented `mathgrpo solve` asks; "question" and the like are places for one."""
    commands: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    texts = [page.read_text(encoding="utf-8") for page in PAGES] + [each.help or "" for each in commands.values()]
    calls = [call for text in texts for call in re.findall(r'mathgrpo solve [^\n`]*?\\?"[^"\n]+\\?"', text)]
    return {shlex.split(call.replace("\\", ""))[3] for call in calls} - {"question"}


def test_the_starter_answers_every_documented_question() -> None:
    questions = asked()
    assert questions and questions <= set(ANSWERS), "run it, and add the right answer"
    for question in questions:
        shown = CliRunner().invoke(app, ["solve", "starter", question, "--device", "cpu"]).output
        assert shown.rstrip().endswith(f"answer: {ANSWERS[question]}"), shown
        assert "4*2=8" in shown, "the help says: watch it reason"


def test_the_served_question_is_one_of_them() -> None:
    (block,) = re.findall(r"question = \((.*?)\n\)", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
    assert "".join(re.findall(r'"([^"]*)"', block)) in ANSWERS
