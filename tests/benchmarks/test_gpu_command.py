"""The kit's command line, its page, and what is packed for it."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import carried, command
from benchmarks.gpu.carried import carried_revision, environment
from benchmarks.gpu.command import main, parse
from benchmarks.gpu.kernels_by_class import (
    SPAN,
    Span,
    busy_us,
    class_seconds,
    device_spans,
    kernel_class,
    longest_kernels,
    profiled,
)
from benchmarks.gpu.packing import is_other_cuda, trim_wheel, weight
from benchmarks.gpu.page import DOCS, RESULTS, page_text, with_targets, write_page
from benchmarks.gpu.record import Record, read_lines
from benchmarks.gpu.stages.correctness import failures_of
from benchmarks.gpu.targets import TARGETS, target_rows
from mathgrpo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nonsense"], "--only=nonsense: no such stage; there are: facts, correctness, decoding"),
        (["--minutes", "0"], "--minutes=0.0: must be a number above 0"),
        (["--minutes", "nan"], "--minutes=nan: must be a number above 0"),
        (["--minutes", "nine"], "argument --minutes: invalid float value: 'nine'; see python -m benchmarks.gpu --help"),
        (["--carried", "no/such"], "--carried=no/such: no such folder; benchmarks/gpu/pack.sh makes one"),
        (["--out", __file__], "is a file; name a folder"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert said in errors and errors.startswith("error: ") and len(errors.splitlines()) == 1


def test_without_a_gpu_the_kit_says_what_it_can_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    assert main([]) == 2 and "--rehearse" in capsys.readouterr().err
    assert parse([]).minutes == 9.0


def test_a_card_that_torch_does_not_see_is_one_line_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(command, "require_cuda", lambda: "cuda")
    assert main(["--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert f"torch {torch.__version__} sees no CUDA device" in errors[-1] and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--rehearse", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written (Not a directory); name another folder" in capsys.readouterr().err
    (tmp_path / "out" / "results.jsonl").mkdir(parents=True)
    assert main(["--rehearse", "--out", str(tmp_path / "out")]) == 2
    assert "cannot be written (Is a directory)" in capsys.readouterr().err


def test_what_is_missing_is_named_with_both_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "NEEDED", ("torch", "no_such_package"))
    with pytest.raises(UserError, match=r"not there: no_such_package; with network: make bench-gpu.* too large"):
        environment(None)
    monkeypatch.setattr(carried, "PACKED", ("no_such_package",))
    with pytest.raises(UserError, match=r"not there: no_such_package; with network: .* without: run .*pack.sh"):
        environment(None)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "no_such_package-1.0-cp39-cp39-win32.whl").write_bytes(b"not a wheel")
    with pytest.raises(UserError, match=r"cannot be installed in Python 3\.\d+ .*pack.sh --python 3\.\d+"):
        environment(tmp_path)


def test_carried_wheels_are_unpacked_once_and_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "NEEDED", ("carried_thing",))
    monkeypatch.setattr(carried.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(carried.tempfile, "tempdir", str(tmp_path))
    wheel_of(tmp_path / "kit" / "wheels", "carried_thing", {"carried_thing/__init__.py": "VALUE = 5\n"})
    env = environment(tmp_path / "kit")
    done = subprocess.run([sys.executable, "-c", "import carried_thing, mathgrpo; print(carried_thing.VALUE)"],
                          env=env, capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "5"
    site = env["PYTHONPATH"].split(os.pathsep)[0]
    before = Path(site).stat().st_ino
    assert environment(tmp_path / "kit")["PYTHONPATH"].split(os.pathsep)[0] == site
    assert Path(site).stat().st_ino == before and not list(tmp_path.glob("*-kit-*-*-*"))


def test_wheels_that_do_not_fit_are_no_matter_where_nothing_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "thing-1.0-cp39-cp39-win32.whl").write_bytes(b"")
    assert str(ROOT / "src") in environment(tmp_path)["PYTHONPATH"]
    assert "going on without what was carried" in capsys.readouterr().err


def wheel_of(folder: Path, name: str, files: dict[str, str]) -> Path:
    """Write a wheel with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in files.items():
            wheel.writestr(inner, text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "".join(f"{inner},,\n" for inner in files) + f"{info}/RECORD,,\n")
    return path


def test_a_trimmed_wheel_still_installs_and_lists_what_is_in_it(tmp_path: Path) -> None:
    files = {"thing/__init__.py": "x = 1\n", "thing/lib_cuda118.so": "heavy" * 1000, "thing/lib_cuda130.so": "kept"}
    path = wheel_of(tmp_path, "thing", files)
    trim_wheel(path, is_other_cuda)
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        rows = list(csv.reader(io.StringIO(wheel.read("thing-1.0.dist-info/RECORD").decode())))
    assert "thing/lib_cuda118.so" not in names and "thing/lib_cuda130.so" in names
    assert {row[0] for row in rows} <= set(names) and all(row[1].startswith("sha256=") for row in rows if row[2])
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
    subprocess.run([*install, str(tmp_path / "site"), str(path)], check=True)
    assert (tmp_path / "site" / "thing" / "lib_cuda130.so").read_text() == "kept"
    assert weight(tmp_path / "site" / "thing") == len("x = 1\n") + len("kept")


def test_the_packed_revision_stands_in_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "revision").write_text("abc123\n")
    monkeypatch.setattr(command, "revision", lambda: "unknown")
    assert command.known_revision(tmp_path) == "abc123" and command.known_revision(None) == "unknown"
    assert carried_revision(None) == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--python", "2.7"], "mathgrpo runs on 3.11 and later"),
        (["--nonsense"], "no such option"),
        (["--out"], "needs a"),
    ],
)
def test_the_packing_script_refuses_what_it_cannot_do(arguments: list[str], said: str) -> None:
    done = subprocess.run([ROOT / "benchmarks/gpu/pack.sh", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def lines_of(folder: Path, card: str, **numbers: float) -> list[dict[str, Any]]:
    """Return a results file's lines with a card and the numbers of the targets of these cases."""
    record = Record(folder / "results.jsonl", "now")
    base: dict[str, Any] = {"status": "done", "size": "", "error": "", "seconds": 1.0, "peak_bytes": 0}
    lines = [record.add(revision="abc", card=card, only=[], minutes=9, carried=True),
             record.add(stage="facts", case="card and versions", numbers={"driver": "580"}, **base)]  # fmt: skip
    for target in TARGETS:
        if target.number in numbers:
            found = {target.number: numbers[target.number]}
            lines.append(record.add(stage=target.stage, case=target.case, numbers=found, **base))
    return lines


def test_targets_are_judged_on_their_cards_alone(tmp_path: Path) -> None:
    def verdicts(card: str) -> dict[str, str]:
        (tmp_path / "results.jsonl").unlink(missing_ok=True)
        lines = lines_of(tmp_path, card, step_s=1.7, mfu=0.2, memory_ratio=float("nan"))
        rows = target_rows({(x.get("stage", ""), x.get("case", "")): x for x in lines}, card)
        return {what.split(",")[0]: verdict for what, _, _, verdict in rows}

    judged = verdicts("NVIDIA H100 80GB HBM3")
    assert judged["a whole step"] == "met" and judged["update"] == "**not met**" and judged["decoding"] == ""
    assert judged["update's memory over that of full logits"] == "**not met**", "NaN is no success"
    assert verdicts("NVIDIA T4")["a whole step"] == "not judged on this card"


def test_the_page_has_targets_and_what_to_mend_and_no_text_breaks_its_tables(tmp_path: Path) -> None:
    lines_of(tmp_path, "H100", step_s=1.7)
    later = Record(tmp_path / "results.jsonl", "later")
    later.add(revision="abc", card="H100", only=["decoding"], minutes=9, carried=True)
    later.add(
        stage="decoding", case="512 rows", status="out of memory", size="512 rows", seconds=2.0,
        numbers={"a|b": [1, 2], "by": {"x": 0.5}}, error="CUDA | out <script> of\nmemory", peak_bytes=3_000_000_000,
    )  # fmt: skip
    bad = write_page(tmp_path / "results.jsonl", tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert bad == ["decoding/512 rows"]
    assert "- `decoding`, 512 rows: out of memory at 512 rows: CUDA \\| out &lt;script> of memory" in text
    row = next(line for line in text.splitlines() if line.startswith("| 512 rows |"))
    assert row.replace("\\|", "").count("|") == 6 and "3.00" in row and "x 0.5" in row
    assert "| a whole step, 64 × 8, 200 + 200 tokens | ≤ 1.8 s | 1.7 s | met |" in text
    assert "Not yet measured." in text and "Run of now: revision abc." in text and "only decoding." in text
    assert page_text([]).count("not yet measured") == len(TARGETS)


def test_numbers_of_two_cards_never_mix_nor_with_a_rehearsals(tmp_path: Path) -> None:
    lines_of(tmp_path, "H200", step_s=1.2)
    Record(tmp_path / "results.jsonl", "later").add(revision="abc", card="none, a rehearsal", only=[], minutes=9,
                                                     carried=False)  # fmt: skip
    assert "1.2 s" not in page_text(read_lines(tmp_path / "results.jsonl"))
    assert "its numbers say nothing about speed" in page_text(read_lines(tmp_path / "results.jsonl"))


def test_the_docs_have_the_targets_as_they_were_last_measured(tmp_path: Path) -> None:
    text = (ROOT / DOCS).read_text(encoding="utf-8")
    assert with_targets(text, read_lines(ROOT / RESULTS)) == text, "run: python -m benchmarks.gpu.page"
    changed = with_targets(text, lines_of(tmp_path, "H100", step_s=1.7))
    assert "| 1.7 s | met |" in changed and "Card: H100, driver 580." in changed
    with pytest.raises(ValueError, match=r"<!-- gpu targets.* and <!-- end of gpu targets --> once each"):
        with_targets("# Performance", [])


def test_failures_of_a_junit_report_are_first_lines(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(
        "<testsuites><testsuite><testcase classname='a' name='good'/>"
        "<testcase classname='a' name='off'><skipped/></testcase>"
        "<testcase classname='a' name='bad'><failure message='assert 1 == 2&#10;more'>text</failure></testcase>"
        "</testsuite></testsuites>"
    )
    counts, lines = failures_of(path)
    assert counts == {"passed": 1, "failed": 1, "skipped": 1} and lines == ["a::bad: assert 1 == 2"]


def test_kernels_are_told_apart_by_name() -> None:
    names = {"nvjet_tst_256x128": "products", "_attend_prompts": "attention", "_draw_tokens": "sampling",
             "_rotate": "norms and rotation", "void cutlass::Kernel2<flash>": "attention", "Memcpy DtoD": "copies",
             "splitKreduce_kernel": "products", "multi_tensor_apply_adam": "optimizer", "thing": "other"}  # fmt: skip
    assert {name: kernel_class(name) for name in names} == names
    spans = [Span(0, 2e6, "_gate"), Span(0, 1e6, "nvjet"), Span(5, 1e6 + 5, "_gate")]
    assert class_seconds(spans) == {"gate": 3.0, "products": 1.0} and longest_kernels(spans, 1) == {"_gate": 3.0}
    assert busy_us([], 0, 5) == 0.0


def test_a_profile_has_marked_parts_and_what_ran_on_no_device_is_not_a_kernel() -> None:
    def work() -> None:
        with torch.profiler.record_function(SPAN + "sum"):
            torch.ones(1000).sum()

    every = profiled(work, "cpu")
    (part,) = [span for span in every if span.name.startswith(SPAN)]
    inside = [span for span in every if span.name == "aten::sum"]
    assert inside and part.start <= inside[0].start and inside[0].end <= part.end and not device_spans(every)
    assert [s.name for s in device_spans([Span(0, 1, "k"), Span(0, 0, "empty"), Span(0, 1, SPAN + "x")])] == ["k"]
