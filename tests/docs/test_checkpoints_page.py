"""docs/checkpoints.md names every file that a run really writes, and their sizes are as it says."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import AutoModelForCausalLM

from mathgrpo.runs.run_folder import read_info

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def table(heading: str, number: int = 0) -> list[str]:
    """Return the first cell of every row of a table below a heading."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE)[number].splitlines()[2:]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows]


def files(cells: list[str]) -> set[str]:
    """Return the file names in some cells."""
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_run_folder_is_as_the_page_says(run_folder: Path) -> None:
    paths = {path.relative_to(run_folder).as_posix() for path in run_folder.rglob("*") if path.is_file()}
    general = {
        re.sub(r"(after|step-\d+)(?=[.-])", "before", path) if path.startswith("eval/") else path for path in paths
    }
    general = {"checkpoints/step-N/" if path.startswith("checkpoints/step-") else path for path in general}
    assert general == files(table("The run folder"))
    assert read_info(run_folder)["status"] == "finished"


def test_a_checkpoint_is_as_the_page_says(run_folder: Path) -> None:
    assert {path.name for path in (run_folder / "checkpoints" / "step-2").iterdir()} == files(table("A checkpoint"))


def test_an_adapters_checkpoint_is_as_the_page_says(run_folder: Path, adapter_run: Path) -> None:
    names = {path.name for path in (adapter_run / "checkpoints" / "step-2").iterdir()}
    assert names - files(table("A checkpoint")) == files(table("A checkpoint", 1))
    gone = files(table("A checkpoint")) - names
    assert gone == {"model.safetensors", "config.json", "generation_config.json"}


def test_the_sizes_are_as_the_page_says(run_folder: Path) -> None:
    checkpoint = run_folder / "checkpoints" / "step-2"
    weights = AutoModelForCausalLM.from_pretrained(checkpoint).num_parameters()
    for name, per_weight in (("model.safetensors", 4), ("optimizer.safetensors", 8)):
        assert f"{per_weight} bytes" in PAGE
        assert abs((checkpoint / name).stat().st_size / (per_weight * weights) - 1) < 0.01


def test_only_what_the_page_says_is_needed_to_sample(run_folder: Path, tmp_path: Path) -> None:
    section = PAGE.split("## A checkpoint\n", 1)[1]
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| (yes|no) \| (yes|no) \| yes \|$", section, re.MULTILINE)
    needed = {name for cell, sample, _ in rows if sample == "yes" for name in files([cell])}
    for name in needed:
        (tmp_path / name).write_bytes((run_folder / "checkpoints" / "step-2" / name).read_bytes())
    from mathgrpo.config.recipe import ModelSection
    from mathgrpo.models import load_policy

    assert load_policy(ModelSection(path=str(tmp_path)), "cpu", train=True).eos_ids
    assert len(rows) == 7 and len(needed) == 6
