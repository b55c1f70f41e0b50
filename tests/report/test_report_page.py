from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mathgrpo.errors import UserError
from mathgrpo.evaluation import read_evaluation, write_evaluation
from mathgrpo.evaluation.records import Evaluation
from mathgrpo.report import write_report
from mathgrpo.report.read_run import MOST_GROUPS, load_run, spread_groups
from report.synthetic_run import write_lines, write_synthetic_run

VOID = {"meta", "input", "br", "link", "use", "path", "rect"}


class Reader(HTMLParser):
    """Tags, texts and attributes of a page; counts what is open so that unbalanced markup shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def named(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Attributes of the tags of this name and class."""
        return [
            found
            for name, found in self.tags
            if name == tag
            and all(found.get("class" if key == "cls" else key) == value for key, value in attributes.items())
        ]


def page_of(folder: Path) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("run"), steps=8, groups=2, problems=60, templates=20, samples=2)


@pytest.fixture(scope="module")
def small_page(small_run: Path) -> str:
    return page_of(small_run)


def edit(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_page_holds_verdicts_curves_problems_and_groups(small_run: Path, small_page: str) -> None:
    reader = Reader(small_page)
    assert not reader.wrong and not reader.open
    verdict = json.loads((small_run / "verdict.json").read_text())
    flat = small_page.replace("\N{NO-BREAK SPACE}", " ").replace("&lt;", "<")
    assert verdict["heldout"]["line"] in flat and verdict["templates"]["line"] in flat
    assert "”, another number than the gold, " in flat and "no answer block, " in flat  # what was read, and why
    parts = verdict["heldout"]["gain_parts"]
    assert f"format {parts['format']:+.1f}".replace("-", "\N{MINUS SIGN}") in flat
    assert len(reader.named("details", cls="row")) == 80
    assert len(reader.named("article", cls="card group")) == 16
    titles = re.findall(r"<figcaption><b>(.*?)</b>", small_page)
    for title in (
        "Held-out accuracy",
        "Reward",
        "Parts of the reward",
        "Length",
        "Entropy",
        "Gradient norm",
        "Throughput",
        "Time of a step",
        "Learning rate",
        "Groups without spread",
    ):
        assert title in titles
    assert "KL to the reference" not in titles  # beta 0: the run has no kl


def test_the_page_needs_nothing_from_outside(small_page: str) -> None:
    assert "http:" not in small_page and "https:" not in small_page and "@import" not in small_page
    reader = Reader(small_page)
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    policy = reader.named("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"] or ""
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy and "script-src 'unsafe-inline'" not in policy


def test_ids_are_unique_and_controls_are_labelled(small_page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', small_page)
    assert len(ids) == len(set(ids))
    assert small_page.count('<html lang="en">') == 1
    for control in re.findall(r"<(?:select|input type=\"search\")[^>]*>", small_page):
        before = small_page[: small_page.index(control)]
        assert before.rfind("<label") > before.rfind("</label>"), control


def test_the_same_run_gives_the_same_bytes(small_run: Path, small_page: str) -> None:
    assert page_of(small_run) == small_page


def test_a_full_size_run_stays_under_two_megabytes(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path, steps=60, groups=16, problems=500, templates=100)
    page = page_of(folder)
    assert 500_000 < len(page.encode()) < 2_000_000
    reader = Reader(page)
    steps = {int(group["data-step"] or 0) for group in reader.named("article", cls="card group")}
    assert {1, 60} <= steps and len(steps) > 20
    assert "of 960 logged groups" in page
    # What room is short for is never a problem that changed.
    before, after = (read_evaluation(folder, name).records for name in ("before", "after"))
    broken = sum(b.greedy.correct and not a.greedy.correct for b, a in zip(before, after, strict=True))
    shown = [
        row
        for row in reader.named("details", cls="row")
        if row["data-outcome"] == "broken" and row["data-set"] == "heldout"
    ]
    assert len(shown) == broken
    order = [row["data-outcome"] for row in reader.named("details", cls="row")]
    assert order == sorted(order, key=["broken", "fixed", "both-wrong", "both-right"].index)
    assert "problems that broke first" in page


def test_filters_say_how_many_there_are_when_not_all_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count of the shown rows alone would be read as the result."""
    from mathgrpo.report import page

    folder = write_synthetic_run(tmp_path, steps=3, groups=2, problems=120, templates=30)
    whole = page_of(folder)
    assert "<span>all <b>150</b></span>" in whole and " of 150" not in whole
    counts = {name: int(n) for name, n in re.findall(r'value="([\w-]+)"><span>[^<]* <b>(\d+)</b>', whole)}
    assert sum(counts.values()) == 150
    monkeypatch.setattr(page, "PAGE_BYTES", len(whole.encode()) + page.REST_BYTES - 120_000)
    cut = page_of(folder)
    right = re.search(r'value="both-right"><span>both right <b>(\d+) of (\d+)</b>', cut)
    assert right and int(right[1]) < int(right[2]) == counts["both-right"]
    assert re.search(r"<span>all <b>\d+ of 150</b></span>", cut)


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e"
    "\" onclick='x' {{ 7*7 }} </pre></details>"
)
VISIBLE = HOSTILE.replace("\x1b[31m", "")


def test_hostile_text_is_text_everywhere(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path, steps=3, groups=1, problems=3, templates=0)
    edit(
        folder,
        "run.json",
        name=HOSTILE,
        device=HOSTILE,
        engine={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        **{HOSTILE: HOSTILE},
    )
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text + f"\n[rewards_extra]\n'x' = {json.dumps(VISIBLE)}\n")
    row = json.loads((folder / "rollouts.jsonl").read_text().splitlines()[0])
    row |= {"question": HOSTILE, "gold": HOSTILE, "problem_id": HOSTILE}
    row["completions"][0] |= {
        "text": HOSTILE,
        "verdict": HOSTILE,
        "read": HOSTILE,
        "why": HOSTILE,
        "reward_parts": {HOSTILE: 1.0},
        "finish_reason": HOSTILE,
    }
    metrics = {"step": 1, "reward": 1.0, f"reward/{HOSTILE}": 0.5, HOSTILE: 2.0}
    write_lines(folder / "rollouts.jsonl", [row])
    write_lines(folder / "metrics.jsonl", [metrics])
    for when in ("before", "after"):
        path = folder / "eval" / f"{when}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0] |= {"question": HOSTILE, "gold": HOSTILE, "template": HOSTILE}
        rows[0]["greedy"] |= {"text": HOSTILE, "answer": HOSTILE, "verdict": HOSTILE, "why": HOSTILE}
        write_lines(path, rows)
    page = page_of(folder)
    reader = Reader(page)
    assert not reader.wrong and not reader.open
    assert len(reader.named("script")) == 1 and not reader.named("img")
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "\x1b" not in page and "\u202e" not in page and "[31m" not in page
    assert "{{ 7*7 }}" in page and page.count("&lt;img src=x") >= 10


def test_a_million_characters_are_cut_with_a_note(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path, steps=3, groups=1, problems=3, templates=0)
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    rows[0]["completions"][0]["text"] = "7" * 10**6
    write_lines(folder / "rollouts.jsonl", rows)
    page = page_of(folder)
    assert "[… 998,000 characters left out …]" in page and len(page) < 500_000


@pytest.mark.parametrize("cut", [True, False])
def test_an_interrupted_run_gets_a_report_that_says_so(tmp_path: Path, cut: bool) -> None:
    folder = write_synthetic_run(tmp_path, steps=10, groups=1, problems=10, templates=0, finished=False)
    if cut:  # stopped in the middle of a line
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            with (folder / name).open("a") as file:
                file.write('{"step": 7, "rew')
    page = page_of(folder)
    assert "No verdict yet: the evaluation after training is not there" in page and "interrupted" in page
    assert "at step 6 of 10" in page and "nothing to compare" in page
    assert 'class="card group"' in page


def test_a_finished_run_without_a_first_evaluation_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[training]\nbatch_tokens = 100\n")
    (tmp_path / "run.json").write_text('{"name": "sft", "status": "finished"}')
    page = page_of(tmp_path)
    assert "No verdict: the evaluation before training is not part of this run" in page and "again when it" not in page


def test_a_run_that_has_only_begun_gets_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[training]\nsteps = 100\n")
    page = page_of(tmp_path)
    assert "No step has been logged yet" in page and "the evaluation before training is not there" in page
    assert tmp_path.name in page


def test_a_resumed_run_counts_each_step_once(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path, steps=4, groups=1, problems=3, templates=0)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    again = json.loads(lines[2]) | {"reward": 9.0}
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:3], json.dumps(again), lines[3]]) + "\n")
    rewards = load_run(folder).metrics["reward"]
    assert list(rewards) == [1, 2, 3, 4] and rewards[3] == 9.0


def test_nan_and_missing_metrics_are_no_obstacle(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path, steps=4, groups=0, problems=3, templates=0)
    write_lines(
        folder / "metrics.jsonl", [{"step": 1, "reward": float("nan"), "kl": None}, {"step": 2, "reward": 1, "kl": 0.1}]
    )
    page = page_of(folder)
    assert "KL to the reference" in page


def spoil(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.toml", "steps = = 3", r"config\.toml: not TOML"),
        ("run.json", "[1]", r"run\.json: not a JSON object \(it is a list\)"),
        ("metrics.jsonl", '{"step": 1}\n{"ste\n{"step": 3}\n', r"metrics\.jsonl:2: not a JSON object"),
        ("metrics.jsonl", '{"reward": 1}\n', r"metrics\.jsonl:1: step=None"),
        (
            "rollouts.jsonl",
            '{"step": 1, "problem_id": "a"}\n',
            r"rollouts\.jsonl:1: not a group of completions \(question",
        ),
        ("eval/after.jsonl", '{"id": 3}\n', r"after\.jsonl:1: not a problem record"),
        ("eval/after.json", "", r"after\.json: not a JSON object"),
    ],
)
def test_a_corrupt_file_is_named_in_one_line_and_no_page_is_written(
    tmp_path: Path, file: str, content: str, says: str
) -> None:
    folder = write_synthetic_run(tmp_path, steps=2, groups=1, problems=3, templates=0)
    spoil(folder, file, content)
    with pytest.raises(UserError, match=says) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value) and not (folder / "report.html").exists()


def test_what_is_no_run_folder_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no run folder"):
        write_report(tmp_path)


def test_evaluations_on_different_problems_are_refused(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path, steps=2, groups=1, problems=5, templates=0)
    after = read_evaluation(folder, "after")
    write_evaluation(Evaluation(after.records[1:], after.settings), folder, "after")
    with pytest.raises(UserError, match="share 4 problems of 5 and 4"):
        write_report(folder)


def test_spread_groups_keeps_ends_and_room() -> None:
    steps = [step for step in range(1, 101) for _ in range(16)]
    kept = spread_groups(steps, 100)
    shown = [steps[i] for i in kept]
    assert len(kept) <= 100 and shown[0] == 1 and shown[-1] == 100 and shown.count(1) == 4
    assert spread_groups(steps, 1600) == list(range(1600)) and spread_groups([], 3) == []
    assert [steps[i] for i in spread_groups(steps, 1)] == [100] and len(
        spread_groups(list(range(1000)), MOST_GROUPS)
    ) == MOST_GROUPS
