"""The README's table of the reference systems names only what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from mathgrpo.cli.app import app
from mathgrpo.config import Recipe, load_recipe
from mathgrpo.config.recipe_fields import field_at

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## The four reference systems")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in SECTION.splitlines()
    if line.startswith("| ") and not line.startswith(("| what", "| | system"))
]
NAMED = list(dict.fromkeys(name for row in ROWS for cell in row[1:] for name in re.findall(r"`([^`]+)`", cell)))
COMMANDS = typer.main.get_command(app)
WORDS = ("####", "think_leaky", "rollouts.jsonl", "--processes")
"""Named in the table, and neither path, setting nor command."""


def test_every_system_and_every_row_is_there() -> None:
    assert len(ROWS) >= 40 and all(len(row) == 4 for row in ROWS)
    assert {digit for row in ROWS[4:] for digit in row[1].split()} == set("1234")
    assert all("`" in row[3] and ("`" in row[2] or "](" in row[2]) for row in ROWS[4:]), "a place and what shows it"


@pytest.mark.parametrize("name", NAMED)
def test_what_it_names_exists(name: str) -> None:
    if name.startswith("mathgrpo "):
        word, *arguments = shlex.split(name)[1:]
        context = COMMANDS.commands[word].make_context(word, arguments)  # type: ignore[attr-defined]
        if context.params.get("recipe"):
            load_recipe(context.params["recipe"])
    elif (ROOT / name).exists():
        return
    else:
        assert name in WORDS or field_at(Recipe, name.split(".")) is not None, f"{name} is nothing"


def test_the_words_are_right() -> None:
    from mathgrpo.formats import get_format
    from mathgrpo.runs.run_folder import ROLLOUTS

    assert get_format("think_leaky").leaky and ROLLOUTS == "rollouts.jsonl"
    options = {option for parameter in COMMANDS.commands["train"].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {"--processes", "--tiny"} <= options
