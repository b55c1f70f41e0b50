"""The command as a user runs it: help, errors, exit codes, and every command on a tiny model."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_model, tiny_tokenizer

COMMANDS = (
    "train", "sft", "eval", "solve", "report", "grade", "score", "check-data", "demo", "export", "publish", "serve",
    "sweep", "env",
)  # fmt: skip
HEAVY = (
    "torch", "transformers", "datasets", "peft", "pydantic", "rich", "plotly", "sympy", "optuna", "starlette",
    "uvicorn",
)  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1"}


def mathgrpo(*arguments: object, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as the shell does."""
    return subprocess.run(
        [sys.executable, "-m", "mathgrpo", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, input=stdin, env=environment(), timeout=100, check=False,
    )  # fmt: skip


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process, for speed; returns (exit code, output, errors)."""
    import io

    from mathgrpo.cli import main

    def call(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mathgrpo", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, problems and a recipe."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = [{"question": f"What is {i} + {i}?", "answer": f"{2 * i:,}"} for i in range(991, 1011)]
    (folder / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (folder / "my.py").write_text(
        "def vowels(completions, **columns):\n"
        "    return [sum(c in 'aeiou' for c in turn[0]['content']) / 4 for turn in completions]\n"
    )
    (folder / "tiny.toml").write_text(
        f'[run]\noutput_dir = "{folder}/runs"\n[model]\npath = "{folder}/model"\n'
        f'[problems]\nsource = "{folder}/problems.jsonl"\nheldout_size = 3\n'
        f'[rewards]\n"{folder}/my.py:vowels" = 1.0\n'
        "[rollout]\nprompts_per_step = 2\ngroup_size = 2\nmax_new_tokens = 6\n[training]\nsteps = 2\n"
    )
    return folder


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mathgrpo.cli import main\nsys.argv = ['mathgrpo', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(f"  {name} " in shown.stdout for name in COMMANDS)
    assert "loaded: []" in shown.stdout
    # Processor time, not wall time: other processes on the machine must not fail the test.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example(called: Any, name: str) -> None:
    code, out, _ = called(name, "--help")
    assert code == 0
    assert f"    mathgrpo {name} " in out or f"    mathgrpo {name}\n" in out
    assert "Example" in out


def test_bad_input_is_one_error_line_exit_2_and_no_traceback(material: Path, tmp_path: Path) -> None:
    result = mathgrpo("train", material / "tiny.toml", "--set", "rollout.group_size=1", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: rollout.group_size=1: every advantage would be 0; use 2 or more\n"
    assert not list(tmp_path.iterdir())


def test_every_problem_of_a_recipe_has_its_line(called: Any, material: Path) -> None:
    code, _, err = called("train", material / "tiny.toml", "--set", "grpo.loss=ppo", "--set", "training.stepz=1")
    assert code == 2
    assert [line.startswith("error: ") for line in err.splitlines()] == [True, True]


def test_misused_commands_are_one_line(called: Any, material: Path) -> None:
    for arguments, words in [
        (["train"], "error: RECIPE: nothing given"),
        (["train", "no-such"], "error: recipe=no-such: no such recipe"),
        (["train", "--resume", material], "not a run folder"),
        (["report", material], "error: "),
        (["eval", "./none"], "error: "),
        (["solve", material / "model", "2+2?", "--file", "x"], "error: --file"),
        (["solve", material / "model", "--file", material / "none.txt"], "error: --file"),
        (["check-data", material / "none.jsonl"], "error: "),
    ]:
        code, _, err = called(*arguments)
        assert code == 2, arguments
        assert words in err and err.count("\n") == 1, err


def test_dry_run_shows_recipe_and_plan_and_writes_nothing(called: Any, material: Path, tmp_path: Path) -> None:
    import tomllib

    from mathgrpo.config import load_recipe

    code, out, _ = called("train", material / "tiny.toml", "--dry-run", "--set", f"run.output_dir={tmp_path}/runs")
    assert code == 0
    recipe = load_recipe(str(material / "tiny.toml"), [f"run.output_dir={tmp_path}/runs"])
    assert tomllib.loads(out) == recipe.model_dump(mode="json", exclude_none=True)  # the plan is in comments
    assert "# step        2 prompts × 2 completions = 4" in out
    assert not list(tmp_path.iterdir())


def test_train_report_eval_compare(called: Any, material: Path, tmp_path: Path) -> None:
    code, out, err = called(
        "train", material / "tiny.toml", "--set", f"run.output_dir={tmp_path}", "--set", "run.name=r"
    )
    assert code == 0, err
    run = tmp_path / "r"
    assert f"run folder  {run}\nreport      {run}/report.html" in out
    assert "held-out accuracy 0.0 % → 0.0 %" in out
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert called("report", run)[:2] == (0, f"{run / 'report.html'}\n")
    assert (run / "report.html").read_text()[:15] == page[:15]

    # The run's own problems, format and length: the same records as its own last evaluation.
    code, out, err = called(
        "eval", run, "--out", tmp_path / "out", "--samples", 2, "--against", run / "eval" / "before.json"
    )
    assert code == 0, err
    assert "r on 3 problems, format xml, at most 6 tokens" in out
    assert "accuracy 0.0 % → 0.0 %" in out and "2 samples:" in out
    again = [json.loads(line) for line in (tmp_path / "out" / "eval" / "evaluation.jsonl").read_text().splitlines()]
    own = [json.loads(line) for line in (run / "eval" / "after.jsonl").read_text().splitlines()]
    assert [row["greedy"] for row in again] == [row["greedy"] for row in own]
    code, _, err = called("eval", run, "--out", tmp_path / "out")
    assert code == 2 and "choose another with --name" in err


def test_eval_of_a_model_folder_on_a_file(called: Any, material: Path) -> None:
    code, out, err = called(
        "eval", material / "model", "--problems", material / "problems.jsonl", "--limit", 2, "--max-new-tokens", 4,
        "--format", "boxed",
    )  # fmt: skip
    assert code == 0, err
    assert "model on 2 problems, format boxed, at most 4 tokens" in out


def test_solve_streams_and_appends(called: Any, material: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    options = ["--jsonl", answers, "--max-new-tokens", 5, "--format", "boxed"]
    code, out, err = called("solve", material / "model", "2 + 2?", *options)
    assert code == 0, err
    called("solve", material / "model", *options, "--temperature", 1, "--seed", 4, stdin="one?\n\ntwo?\n")
    (tmp_path / "questions.txt").write_text("three?\n")
    called("solve", material / "model", *options, "--file", tmp_path / "questions.txt")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["question"] for row in rows] == ["2 + 2?", "one?", "two?", "three?"]
    assert rows[0]["completion"] in out and "answer: " in out
    assert {"reasoning", "answer", "completion", "settings"} <= set(rows[0])
    assert rows[1]["settings"]["temperature"] == 1.0 and rows[1]["settings"]["seed"] == 4
    assert all(row["tokens"] <= 5 for row in rows)


def test_check_data_ends_with_a_summary_and_counts_failures(called: Any, material: Path, tmp_path: Path) -> None:
    code, out, _ = called("check-data", material / "problems.jsonl")
    assert (code, out.splitlines()[-1]) == (0, "20 rows: 20 pass, 0 fail")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"q": "1+1?", "a": "2"}\n{"q": "2+2?", "a": "maybe four or so"}\n{"q": "3+3?"}\n')
    code, out, _ = called("check-data", bad, "--question-column", "q", "--answer-column", "a")
    assert (code, out.splitlines()[-1]) == (1, "3 rows: 1 pass, 2 fail")
    assert len(out.splitlines()) == 5 and 'row 1 asks "1+1?", gold "2"' in out and "3 rows" in out.splitlines()[0]
    passing = tmp_path / "passing.jsonl"
    called("check-data", bad, "--question-column", "q", "--answer-column", "a", "--passing", passing)
    assert called("check-data", passing)[0] == 0 and '"answer": "2"' in passing.read_text()
    (tmp_path / "empty.jsonl").write_text("")
    assert called("check-data", tmp_path / "empty.jsonl")[0] == 2


def test_check_data_says_a_whole_table_s_error_once_with_an_option_that_mends_it(called: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text('{"Aufgabe": "Was ist 1 + 1?", "solution": "2"}\n' * 30)
    code, out, error = called("check-data", path)
    assert code == 2 and not out and len(error.splitlines()) == 1
    assert "columns there: Aufgabe, solution" in error and "did you mean" not in error
    code, out, _ = called("check-data", path, *shlex.split(error.partition("; write ")[2]))
    assert (code, out.splitlines()[-1]) == (0, "30 rows: 30 pass, 0 fail")


@pytest.mark.parametrize("command", [["eval"], ["solve", "--jsonl", "traces.jsonl", "--samples", "1"]])
def test_columns_are_named_for_other_problems_as_the_error_says(
    called: Any, material: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.jsonl"
    path.write_text('{"Aufgabe": "Was ist 1 + 1 hier?", "Ergebnis": "2"}\n')
    words = [command[0], material / "model", "--problems", path, *command[1:], "--max-new-tokens", "8"]
    for _ in range(2):
        code, _, error = called(*words)
        assert code == 2 and "columns there: Aufgabe, Ergebnis; write --set " in error
        words += shlex.split(error.partition("; write ")[2])[:2]
    assert called(*words)[0] == 0
    assert called(*words, "--set", "problems.source=x")[2].startswith("error: --set problems.source=x: only columns")
    code, _, error = called(*words, "--max-new-tokens", "100000")
    assert code == 2 and error.startswith("error: --max-new-tokens=100000: ") and "use at most" in error


def test_a_pipe_that_closes_is_no_crash(material: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mathgrpo", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.wait(timeout=60)
    process.stderr.close()
    assert "Traceback" not in errors


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_resume(material: Path, tmp_path: Path) -> None:
    """The real thing: a process, a signal from outside, a second process that goes on."""
    options = ["--set", f"run.output_dir={tmp_path}", "--set", "run.name=r", "--set", "training.steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mathgrpo", "train", material / "tiny.toml", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out.splitlines()[-1].endswith(f"resume with: mathgrpo train --resume {tmp_path / 'r'}")
    assert "Traceback" not in err
    done = json.loads((tmp_path / "r" / "run.json").read_text())["steps_done"]
    result = mathgrpo("train", "--resume", tmp_path / "r", "--set", f"training.steps={done + 1}")
    assert result.returncode == 0, result.stderr
    assert f"resuming after step {done} of {done + 1}" in result.stdout
