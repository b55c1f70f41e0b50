"""Building the compiled decoder: once, whole or not at all, and without a compiler the torch path says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fakes import tiny_model, tiny_tokenizer
from mathgrpo.models import Policy, policy_from
from mathgrpo.rollout import build_engine
from mathgrpo.rollout.c import KernelError, load_kernels
from mathgrpo.rollout.c import library as build
from mathgrpo.types import Prompt, Sampling

PROMPTS = [Prompt((3, 4, 5), key=1)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder; libraries loaded from it are forgotten afterwards."""
    monkeypatch.setenv("MATHGRPO_CACHE", str(tmp_path))
    load_kernels.cache_clear()
    yield tmp_path / "kernels"
    load_kernels.cache_clear()


def tiny_policy() -> Policy:
    return policy_from(tiny_model(), tiny_tokenizer(), device="cpu", dtype=torch.float32, name="tiny")


def has_compiler() -> bool:
    try:
        build.library_path(torch.float32)
    except KernelError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler on this machine")


def test_without_a_compiler_the_torch_path_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    engine = build_engine(tiny_policy())
    assert engine.reason == "fused decoder; no compiled decoder: no C compiler (cc, gcc or clang) on this machine"
    assert len(engine.generate(PROMPTS, 2, Sampling(max_new_tokens=3))[0]) == 2


def test_a_compiler_that_fails_is_quoted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'x.c:1: error: no such machine' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    reason = build_engine(tiny_policy()).reason
    assert reason == f"fused decoder; no compiled decoder: {broken} refused: no such machine"
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no C compiler (CC=no-such-compiler)" in build_engine(tiny_policy()).reason


@needs_compiler
def test_the_switch_leaves_the_decoder_out() -> None:
    assert build_engine(tiny_policy()).reason.startswith("compiled decoder (")
    assert build_engine(tiny_policy(), compiled=False).reason == "fused decoder"


@needs_compiler
def test_it_is_built_once(folder: Path) -> None:
    first = build.build(torch.float32)
    made = first.stat().st_mtime_ns
    assert build.build(torch.float32) == first and first.stat().st_mtime_ns == made
    assert sorted(path.suffix for path in folder.iterdir()) == [".sha256", ".so"]


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "empty", "no checksum", "other bytes"])
def test_a_damaged_library_is_built_again(folder: Path, damage: str) -> None:
    path = build.build(torch.float32)
    good = path.read_bytes()
    damaged = {"cut": good[: len(good) // 2], "empty": b"", "no checksum": good, "other bytes": b"x" + good[1:]}
    path.unlink()  # a loaded file must not change under the process
    path.write_bytes(damaged[damage])
    if damage == "no checksum":
        path.with_suffix(".sha256").unlink()
    kernels = load_kernels(torch.float32)
    assert kernels.columns == 2 * kernels.lanes
    assert build.build(torch.float32).stat().st_size == len(good)


@needs_compiler
def test_a_file_that_does_not_load_is_built_again(folder: Path) -> None:
    """Its checksum is right, so only the loader can tell."""
    path = build.build(torch.float32)
    path.unlink()
    path.write_bytes(b"not a library")
    path.with_suffix(".sha256").write_text(build.digest(path))
    assert load_kernels(torch.float32).pair == 1


@needs_compiler
def test_two_processes_may_build_at_once(folder: Path) -> None:
    code = "import torch; from mathgrpo.rollout.c import load_kernels; print(load_kernels(torch.float32).lanes)"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lanes = [process.communicate(timeout=100)[0].strip() for process in running]
    assert lanes == [str(load_kernels(torch.float32).lanes)] * 2
    assert sorted(path.suffix for path in folder.iterdir()) == [".sha256", ".so"]
