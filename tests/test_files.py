"""Files and folders are whole or not there, whatever stops the writer."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mathgrpo.errors import did_you_mean, first_line
from mathgrpo.files import append_whole, read_json_lines, remove_folder, written_whole


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let every write fail that would make a file longer: what is left of a disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_lines_that_do_not_fit_are_taken_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_whole(path, b'{"a": 1}\n')
    with files_of_at_most(15), pytest.raises(OSError, match="large"):
        append_whole(path, b'{"a": 2}\n{"a": 3}\n')
    assert path.read_bytes() == b'{"a": 1}\n'
    append_whole(path, b'{"a": 2}\n')
    assert [row["a"] for _, row in read_json_lines(path)] == [1, 2]


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    for text in ("old", "new"):
        with written_whole(target) as folder:
            (folder / "weights").write_text(text)
            assert not target.exists() or (target / "weights").read_text() == "old"
    assert (target / "weights").read_text() == "new" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("stop", [OSError("disk full"), KeyboardInterrupt()])
def test_a_folder_that_was_not_finished_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, stop: BaseException
) -> None:
    target = tmp_path / "step-1"
    with written_whole(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(type(stop)), written_whole(target) as folder:
        (folder / "weights").write_text("half")
        raise stop
    assert (target / "weights").read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_what_a_stopped_writer_left_is_no_obstacle(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    for stale in (".step-1.tmp", ".step-1.removed"):
        (tmp_path / stale).mkdir()
        (tmp_path / stale / "half").write_text("stale")
    with written_whole(target) as folder:
        (folder / "weights").write_text("new")
    assert [path.name for path in target.iterdir()] == ["weights"]
    remove_folder(target)
    assert not list(tmp_path.iterdir())


def test_errors_are_one_line_whatever_they_hold() -> None:
    assert first_line(OSError("\n\n  no space left \nmore")) == "no space left"
    assert first_line(MemoryError()) == "MemoryError"
    assert first_line(ValueError("x" * 500), 20) == "x" * 20 + "…"


def test_the_nearest_name_is_named_whatever_its_case() -> None:
    assert did_you_mean("Questoin", ["question", "answer"]) == '; did you mean "question"?'
    assert did_you_mean("colour", ["question", "answer"]) == ""
