"""`mathgrpo solve --problems`: graded traces, resumed, and learned from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.config.recipe import ProblemsSection
from mathgrpo.errors import UserError
from mathgrpo.evaluation import solved_traces as traces
from mathgrpo.evaluation.solved_traces import TraceFile, write_traces
from mathgrpo.formats import get_format
from mathgrpo.problems.traced import load_worked_sets
from mathgrpo.rollout.engine import Engine
from mathgrpo.types import Completion, Problem, Prompt, Sampling

PROBLEMS = [Problem(f"What is {i} + {i}?", str(2 * i)) for i in range(12)]
SETTINGS = {"seed": 3, "samples": 4}


class Sums(Engine):
    """An engine of written-down completions: sample g answers 2 i + (g mod 2), the even ones right; three texts."""

    name, reason = "sums", ""

    def __init__(self, policy: Any) -> None:
        self._policy, self.calls = policy, 0

    def generate(self, prompts: Any, group_size: int, sampling: Sampling) -> list[list[Completion]]:
        self.calls += 1
        return [[self._completion(prompt, g) for g in range(group_size)] for prompt in prompts]

    def _completion(self, prompt: Prompt, g: int) -> Completion:
        number = int(self._policy.tokenizer.decode(prompt.ids).rsplit(" + ", 1)[1].split("?")[0])
        way = "twice" if g == 2 else "sum"
        text = get_format("xml").write(f"{way}: {number}+{number}={2 * number}", str(2 * number + g % 2))
        ids = (*self._policy.tokenizer(text)["input_ids"], self._policy.eos_ids[0])
        return Completion(ids, (0.0,) * len(ids), "eos")


def write(
    policy: Any, path: Path, problems: list[Problem], *, keep: Any = "correct", settings: Any = SETTINGS, stop: int = 99
) -> Any:
    """Write traces two problems at a time; Ctrl-C comes after `stop` batches."""
    from mathgrpo.runs.interrupt import Interrupted

    batches = 0

    def on_batch(done: int, total: int) -> None:
        nonlocal batches
        batches += 1
        if batches > stop:
            raise Interrupted(2)

    engine = Sums(policy)
    counts = write_traces(
        engine, policy, problems, get_format("xml"), TraceFile(path, settings), samples=4,
        sampling=Sampling(99, seed=3), keep=keep, on_batch=on_batch,
    )  # fmt: skip
    return counts, engine


@pytest.fixture(scope="module")
def policy() -> Any:
    from live_server import tiny_policy

    return tiny_policy()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "ROWS_AT_ONCE", 8)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_correct_traces_are_kept_once_each(policy: Any, tmp_path: Path) -> None:
    counts, _ = write(policy, tmp_path / "t.jsonl", PROBLEMS)
    assert (counts.drawn, counts.correct, counts.written, counts.repeated) == (48, 24, 24, 0)
    first, second = lines(tmp_path / "t.jsonl")[:2]
    assert first["question"] == "What is 0 + 0?" and first["answer"] == "0" and first["verdict"] == "correct"
    assert (
        first["reasoning"] == "sum: 0+0=0"
        and first["completion"].startswith("<reasoning>")
        and first["predicted"] == "0"
    )
    assert (first["sample"], second["sample"], first["model"], first["seed"]) == (0, 2, "tiny", 3)
    # Another seed that draws the same adds nothing.
    counts, _ = write(policy, tmp_path / "t.jsonl", PROBLEMS, settings=SETTINGS | {"seed": 4})
    assert (counts.written, counts.repeated) == (0, 24)


def test_all_traces_are_kept_when_asked_for(policy: Any, tmp_path: Path) -> None:
    counts, _ = write(policy, tmp_path / "t.jsonl", PROBLEMS, keep="all")
    assert counts.written == 36 and counts.repeated == 12  # samples 1 and 3 say the same
    assert {row["verdict"] for row in lines(tmp_path / "t.jsonl")} == {"correct", "wrong"}


@pytest.mark.parametrize("cut", [0, 7, 40])
def test_an_interrupted_file_is_gone_on_with(policy: Any, tmp_path: Path, cut: int) -> None:
    from mathgrpo.runs.interrupt import Interrupted

    write(policy, tmp_path / "whole.jsonl", PROBLEMS)
    path = tmp_path / "t.jsonl"
    with pytest.raises(Interrupted):
        write(policy, path, PROBLEMS, stop=3)
    assert len(lines(path)) == 12
    if cut:  # killed in the middle of a line, too
        path.write_bytes(path.read_bytes() + b'{"question": "What is 6 + 6?", "answer": "12", "rea'[:cut])
    counts, engine = write(policy, path, PROBLEMS)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert engine.calls == 4 and counts.written == 12 and counts.repeated == 2
    counts, engine = write(policy, path, PROBLEMS)
    assert engine.calls == 1 and counts.written == 0


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for text in ("notes without a line end", '{"a": 1}\n', "[1]\n"):
        path = tmp_path / "notes.txt"
        path.write_text(text)
        with pytest.raises(UserError, match=r"notes\.txt"):
            TraceFile(path, SETTINGS)
        assert path.read_text() == text


def test_sft_reads_every_correct_trace_and_no_other(policy: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write(policy, path, PROBLEMS, keep="all")
    sets = load_worked_sets(ProblemsSection(source=str(path)))
    assert len(sets.heldout) == 1 and len(sets.train) == 22  # two ways of eleven questions
    assert not {p.id for p in sets.train} & {p.id for p in sets.heldout}
    assert {p.solution.partition(":")[0] for p in sets.train if p.solution} == {"sum", "twice"}
    assert any("12 of 36 are wrong" in note for note in sets.notes)
    # A plain table is read as before.
    (tmp_path / "plain.jsonl").write_text(
        "".join(json.dumps({"question": f"{i}?", "answer": "1"}) + "\n" for i in range(9))
    )
    assert len(load_worked_sets(ProblemsSection(source=str(tmp_path / "plain.jsonl"), heldout_size=2)).train) == 7


def test_traces_beside_a_test_file_keep_it_out(policy: Any, tmp_path: Path) -> None:
    write(policy, tmp_path / "d" / "train.jsonl", PROBLEMS)
    (tmp_path / "d" / "test.jsonl").write_text(
        "".join(json.dumps({"question": p.question, "answer": p.answer, "reasoning": ""}) + "\n" for p in PROBLEMS[:3])
    )
    sets = load_worked_sets(ProblemsSection(source=str(tmp_path / "d")))
    assert len(sets.heldout) == 3 and len(sets.train) == 18


def test_traces_that_are_all_wrong_are_one_line(policy: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write(policy, path, PROBLEMS, keep="all")
    wrong = [line for line in path.read_text().splitlines() if '"wrong"' in line]
    path.write_text("\n".join(wrong) + "\n")
    with pytest.raises(UserError, match=r"none of its 12 traces is correct and has a reasoning"):
        load_worked_sets(ProblemsSection(source=str(path)))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    from mathgrpo.cli import main

    monkeypatch.setattr(sys, "argv", ["mathgrpo", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_starters_traces_teach_it(
    generator: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way on generated problems: solve writes, sft trains on the file as it is."""
    monkeypatch.setattr(traces, "ROWS_AT_ONCE", 64)
    out = tmp_path / "traces.jsonl"
    solve = ("solve", "starter", "--problems", "generated", "--limit", 24, "--samples", 3, "--max-new-tokens", 64)
    assert call(monkeypatch, *solve, "--jsonl", out) == 0
    rows = lines(out)
    assert rows and all(row["verdict"] == "correct" for row in rows)
    assert f"{len(rows)} traces written to {out}: " in capsys.readouterr().out
    before = out.read_bytes()
    assert call(monkeypatch, *solve, "--jsonl", out) == 0 and out.read_bytes() == before
    changes = [
        f"problems.source={out}",
        "model.path=starter",
        "run.name=s",
        f"run.output_dir={tmp_path}",
        "stages.0.tokens=60",
        "stages.1.tokens=60",
        "training.batch_tokens=512",
        "training.evaluate=false",
    ]
    assert call(monkeypatch, "sft", "starter-sft", *[f"--set={change}" for change in changes]) == 0
    steps = [json.loads(line) for line in (tmp_path / "s" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] >= 1 and steps[-1]["loss"] > 0
    assert (tmp_path / "s" / "checkpoints").is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--problems", "generated"], "--jsonl: nothing given"),
        (["2+2?", "--problems", "generated"], "--problems: a question is given too"),
        (["--problems", "p.jsonl", "--file", "q.txt"], "--file: --problems is given too"),
        (["--problems", "generated", "--jsonl", "t", "--temperature", "0"], "--samples 8: all would be the same"),
        (["--problems", "none.jsonl", "--jsonl", "t"], "no such file"),
        (["--problems", "generated", "--split", "test", "--jsonl", "t"], "--split test: generated problems"),
    ],
)
def test_misuse_is_one_line(
    options: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "solve", "starter", *options) == 2
    err = capsys.readouterr().err
    assert words in err and err.startswith("error: ") and err.count("\n") == 1


def test_the_keep_option_has_two_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "solve", "starter", "--problems", "generated", "--keep", "best", "--jsonl", "t") == 2


def test_a_tiny_model_and_a_csv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model().save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    (tmp_path / "p.csv").write_text("question,answer\n1+1?,2\n2+2?,4\n1+1?,2\n")
    options = ("--problems", tmp_path / "p.csv", "--keep", "all", "--samples", 2, "--max-new-tokens", 5)
    assert call(monkeypatch, "solve", tmp_path / "m", *options, "--jsonl", tmp_path / "sub" / "t.jsonl") == 0
    rows = lines(tmp_path / "sub" / "t.jsonl")
    assert [row["question"] for row in rows] == ["1+1?", "1+1?", "2+2?", "2+2?"]
    assert str(tmp_path) not in (tmp_path / "sub" / "t.jsonl").read_text()
