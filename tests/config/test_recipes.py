"""Every recipe that ships loads, and opens with the command that runs it."""

from pathlib import Path

import pytest

from mathgrpo.config import load_model, load_recipe
from mathgrpo.config.sft_recipe import SftRecipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_loads_and_says_how_to_run_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    if first.startswith(f"# mathgrpo sft {path.stem}"):
        load_model(SftRecipe, str(path), [])
    else:
        assert first.startswith(("# mathgrpo train " + path.stem, "# mathgrpo " + path.stem))
        load_recipe(str(path))


def test_they_are_all_there() -> None:
    assert {path.stem for path in RECIPES} >= {"demo", "starter-base", "starter-sft", "qwen2.5-0.5b-xml"}
