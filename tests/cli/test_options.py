"""Options that would be passed over, and places that cannot be written: told at once, with nothing lost."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.files import append_whole


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one error line of a command that exits with 2."""
    from mathgrpo.cli import main

    capsys.readouterr()  # what the test itself wrote, such as a model
    monkeypatch.setattr(sys, "argv", ["mathgrpo", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["solve", "starter", "2+2?", "--samples", "8"], "--samples: is for --problems"),
        (["solve", "starter", "2+2?", "--keep", "all"], "--keep: is for --problems"),
        (["export", "starter", "--converter", "x.py"], "--converter: is for --format gguf"),
        (["export", "starter", "--format", "adapter", "--dtype", "bfloat16"], "--dtype: an adapter is written"),
        (["sweep", "--resume", "s", "--validation", "50"], "--validation: a sweep that goes on keeps its own"),
        (["sweep", "--resume", "s", "--pruner", "asha"], "--pruner: a sweep that goes on keeps its own"),
        (["sweep", "demo", "--resume", "s"], "RECIPE: a sweep that goes on keeps its own"),
        (["serve", "starter", "--format", "think_leaky"], "--format think_leaky: its prompts show a worked solution"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    command: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for package in {"sweep": ("optuna",), "serve": ("starlette", "uvicorn")}.get(command[0], ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    assert words in refused(monkeypatch, capsys, *command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [["2+2?"], ["--problems", "generated", "--limit", "2"]])
def test_a_file_that_cannot_be_written_is_told_before_the_model_is_loaded(
    more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    places = {tmp_path / "file" / "x.jsonl": "Not a directory", tmp_path: "Is a directory"}
    for place, words in places.items():
        # A model that is not there is told after it: the file came first.
        err = refused(monkeypatch, capsys, "solve", tmp_path / "none", *more, "--jsonl", place)
        assert f"--jsonl {place}: cannot be written ({words}" in err or "File exists" in err


def test_an_empty_file_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "x.jsonl"
    assert "model.path=" in refused(monkeypatch, capsys, "solve", tmp_path / "none", "2+2?", "--jsonl", out)
    assert out.parent.is_dir() and not out.exists()


def limited(size: int, target: Path, data: str) -> subprocess.CompletedProcess[str]:
    """Append in a process whose files cannot grow beyond a size: the disk is full in the middle of a write."""
    code = (
        "import sys, pathlib\nfrom mathgrpo.files import append_whole\n"
        "append_whole(pathlib.Path(sys.argv[1]), sys.argv[2].encode())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(target), data], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


def test_what_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    target = tmp_path / "lines.jsonl"
    append_whole(target, b'{"a": 1}\n')
    done = limited(64, target, "x" * 200)
    assert "File too large" in done.stderr
    assert target.read_bytes() == b'{"a": 1}\n'
    assert limited(64, target, "y" * 20).returncode == 0 and target.read_bytes() == b'{"a": 1}\n' + b"y" * 20


def test_a_place_without_the_right_to_write_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from mathgrpo.cli import finished_run_commands as report

    def denied(run: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(run))

    monkeypatch.setattr("mathgrpo.report.write_report", denied)
    assert report.report_command is not None
    err = refused(monkeypatch, capsys, "report", tmp_path)
    assert err == f"error: {tmp_path}: Permission denied; choose another place, or get the right to use it\n"


def test_the_version_is_told_without_an_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib import metadata

    from mathgrpo.cli import main

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(sys, "argv", ["mathgrpo", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and capsys.readouterr().out == "a checkout that is not installed\n"


def test_questions_and_answers_are_kept_up_to_the_one_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The disk fills after the first answer: it stays, whole, and the error is one line."""
    import errno

    from mathgrpo import files

    tiny_model().save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    (tmp_path / "q.txt").write_text("one?\ntwo?\n")
    out, real, calls = tmp_path / "a.jsonl", files.append_whole, []

    def full(path: Path, data: bytes) -> None:
        calls.append(data)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(files, "append_whole", full)
    err = refused(
        monkeypatch, capsys, "solve", tmp_path / "m", "--file", tmp_path / "q.txt", "--jsonl", out,
        "--max-new-tokens", 4,
    )  # fmt: skip
    assert f"--jsonl {out}: cannot be written (No space left on device)" in err
    assert out.read_bytes() == calls[0] and b'"one?"' in calls[0]


def test_a_question_that_is_no_text_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    assert "question: is not UTF-8 text (character 3)" in refused(monkeypatch, capsys, "solve", "starter", "a \udcff")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What is \xff?\n"), encoding="utf-8"))
    assert "standard input: is not UTF-8 text (byte 8)" in refused(monkeypatch, capsys, "solve", "starter")
