"""docs/supervised.md: every setting with its default, and a recipe that runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from docs.recipe_settings import defaults
from mathgrpo.config.load_recipe import validated
from mathgrpo.config.sft_recipe import (
    NewModelSection,
    SftModelSection,
    SftOptimizerSection,
    SftRecipe,
    SftTrainingSection,
    StageSection,
)
from mathgrpo.supervised.sft import run_sft

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "supervised.md").read_text(encoding="utf-8")
OWN: dict[str, BaseModel] = {
    "model.": SftModelSection(),
    "stages.": StageSection(),
    "optimizer.": SftOptimizerSection(),
    "training.": SftTrainingSection(),
}


def test_every_setting_is_there_with_its_default() -> None:
    expected: dict[str, Any] = {
        name: value for prefix, section in OWN.items() for name, value in defaults(section, prefix)
    }
    del expected["model.lora"]  # as in every recipe
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert {name: tomllib.loads(f"value = {cell}")["value"] for name, cell in rows} == expected
    assert len(rows) == len(expected) and set(SftRecipe.model_fields) == {
        "run", "model", "problems", "format", "stages", "optimizer", "training",
    }  # fmt: skip
    assert any(name.startswith("model.new.") for name in expected) and NewModelSection().hidden_size == 192


def test_the_recipe_of_the_page_runs(generator: None, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    data = tomllib.loads(text)
    data["stages"][0]["tokens"] = 8000
    data["problems"] |= {"train_size": 100, "heldout_size": 6}
    data |= {"run": {"output_dir": str(tmp_path), "device": "cpu"}, "training": {"batch_tokens": 2048}}
    run = run_sft(validated(SftRecipe, data), "my-sft")
    assert (run / "eval" / "after.json").is_file() and list(run.glob("checkpoints/step-*/model.safetensors"))
