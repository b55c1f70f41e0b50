"""The report's speed part: which charts it has, and the sentence that says what limits a run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mathgrpo.report import write_report
from mathgrpo.report.outcome import speed_summary
from mathgrpo.report.read_run import load_run
from report.synthetic_run import write_lines, write_synthetic_run


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


SPEED = {"tokens_per_s/rollout": 900.0, "tokens_per_s/update": 4000.0, "roofline/rollout": 0.31, "mfu/rollout": 0.08,
         "roofline/rollout_memory": 0.25, "mfu/update": 0.2, "mfu/step": 0.15, "memory/resident_gb": 0.6,
         "memory/peak_gb": 0.7, "rows_per_decode_step": 60.0}  # fmt: skip


def with_speed(folder: Path, changes: dict[str, float], sections: str = "") -> Path:
    """Return the folder of a run that logged its share of the machine."""
    write_synthetic_run(folder, steps=6, groups=1, problems=4, templates=0)
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) | SPEED | changes for line in path.read_text().splitlines()]
    write_lines(path, rows)
    (folder / "config.toml").write_text((folder / "config.toml").read_text() + sections)
    return folder


def test_the_speed_part_shows_shares_of_the_machine_and_what_limits(tmp_path: Path) -> None:
    page = page_of(with_speed(tmp_path / "run", {}))
    titles = re.findall(r"<figcaption><b>(.*?)</b>", page)
    speed = ["Throughput", "Time of a step", "Share of the machine", "Memory", "Rows decoded together"]
    assert [title for title in titles if title in speed] == speed
    assert "mfu/step" not in page  # nothing is left over for "Further metrics"
    assert "The rollout takes" in page and "It is limited by overhead: 31\N{NO-BREAK SPACE}% of the roofline." in page


def test_a_run_without_shares_of_the_machine_has_its_report(tmp_path: Path) -> None:
    page = page_of(write_synthetic_run(tmp_path / "run", steps=6, groups=1, problems=4, templates=0))
    titles = re.findall(r"<figcaption><b>(.*?)</b>", page)
    assert "Throughput" in titles and "Share of the machine" not in titles and "Memory" not in titles
    assert "What limits it is not known" in page


@pytest.mark.parametrize(
    ("metrics", "sections", "words"),
    [
        ({"time/rollout": 9.0}, "", "limited by overhead: 31 % of the roofline. Larger steps spread it"),
        ({"time/rollout": 9.0, "rows_per_decode_step": 40.0}, "", "Of 128 completions only 40 are decoded together"),
        ({"time/rollout": 9.0, "roofline/rollout": 0.8}, "", "limited by arithmetic (80 % of the roofline)"),
        ({"time/rollout": 9.0, "roofline/rollout": 0.8, "roofline/rollout_memory": 0.9}, "",
         "limited by memory bandwidth (80 % of the roofline)"),
        ({"time/update": 9.0}, "", "limited by overhead: 20 % MFU against the peak measured here. Larger steps"),
        ({"time/update": 9.0}, "", "raise rollout.prompts_per_step"),
        ({"time/update": 9.0, "mfu/update": 0.6}, "", "limited by arithmetic (60 % MFU against the peak"),
        ({"time/update": 9.0, "mfu/update": 1.6}, "", "A share of 160 % is impossible: the machine was busy"),
        ({"time/reward": 9.0}, "", "waits for the reward functions (correct, format)"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_limit_and_the_setting(
    tmp_path: Path, metrics: dict[str, float], sections: str, words: str
) -> None:
    run = load_run(with_speed(tmp_path / "run", metrics, sections))
    assert words in speed_summary(run).replace("\N{NO-BREAK SPACE}", " ")


def test_the_sentence_knows_the_engine_and_an_unmeasured_machine(tmp_path: Path) -> None:
    run = load_run(with_speed(tmp_path / "run", {"time/rollout": 9.0}))
    assert "the slow fallback" in speed_summary(replace(run, info={"engine": "fallback"}))
    bare = {name: series for name, series in run.metrics.items() if not name.startswith(("roofline/", "mfu/"))}
    assert "did not log its share of the machine" in speed_summary(replace(run, metrics=bare))
    assert speed_summary(replace(run, metrics={})) == ""
