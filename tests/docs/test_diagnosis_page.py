"""docs/diagnosis.md speaks of metrics that a run logs and of settings that a recipe has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.recipe_settings import SETTINGS

DOCS = Path(__file__).resolve().parents[2] / "docs"
ONLY_ELSEWHERE = {
    "mfu/update_datasheet", "memory/device_gb", "memory/device_peak_gb",  # on a GPU
    "importance/mean", "importance/max", "importance/capped",  # with rollout.vllm.importance_cap
}  # fmt: skip
PAGES = ("diagnosis.md", "settings.md", "algorithm.md", "speed.md")


def logged(run: Path) -> set[str]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {name for line in lines for name in json.loads(line)}


def metric_words(text: str) -> set[str]:
    """Return the words in backticks that are metrics by their form: family/name, or known plain names."""
    families = r"(?:reward|completions|clip_ratio|time|tokens_per_s|mfu|roofline|memory|sampling|importance)/[\w/]+"
    return set(re.findall(rf"`({families})`", text))


@pytest.mark.parametrize("page", PAGES)
def test_the_metrics_are_logged(page: str, run_folder: Path) -> None:
    words = metric_words((DOCS / page).read_text(encoding="utf-8")) - {"reward/NAME"}
    assert words <= logged(run_folder) | ONLY_ELSEWHERE


def test_the_metric_column_names_metrics(run_folder: Path) -> None:
    text = (DOCS / "diagnosis.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    names = {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    files = {name for name in names if re.search(r"\.(jsonl?|html)$", name)}
    assert len(rows) >= 25 and len(names) >= 20
    assert names - files - set(SETTINGS) <= logged(run_folder)


def test_every_learning_metric_is_on_the_page(run_folder: Path) -> None:
    text = (DOCS / "diagnosis.md").read_text(encoding="utf-8")
    speed = ("time/", "mfu/", "roofline/", "memory/", "tokens_per_s", "rows_per")
    learning = {name for name in logged(run_folder) if not name.startswith(speed)} - {"step"}
    assert sorted(name for name in learning if f"`{name}`" not in text) == []


def test_the_settings_exist() -> None:
    for page in ("diagnosis.md", "checkpoints.md", "data.md", "hardware.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        sections = "run|model|problems|format|rollout|grpo|optimizer|training|evaluation"
        named = set(re.findall(rf"`((?:{sections})\.[\w.]+[a-z_])[=`]", text))
        files = {name for name in named if name.endswith((".json", ".safetensors"))}
        tables = {name for name in named if name.rpartition(".")[0] in SETTINGS}  # an entry of a table with free names
        assert named - files - tables <= set(SETTINGS), page
