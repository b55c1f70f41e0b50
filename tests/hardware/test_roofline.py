"""The machine's roofline: measured sensibly, kept, and measured anew when what was kept makes no sense."""

from __future__ import annotations

import json
import mmap
import time
from pathlib import Path

import pytest
import torch

from mathgrpo.cache import kept
from mathgrpo.hardware import roofline
from mathgrpo.hardware.datasheet import data_sheet
from mathgrpo.hardware.device_memory import memory_metrics
from mathgrpo.hardware.flops import Work
from mathgrpo.hardware.roofline import Roofline, ideal_seconds, machine_name, machine_roofline

BY_HAND = Roofline("a machine", ((100, 1000.0), (1000, 100.0)), 50.0, 0.0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATHGRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(roofline, "SECONDS_A_TEST", 0.001)
    monkeypatch.setattr(roofline, "CPU_MEGABYTES", (1, 2))
    monkeypatch.setattr(roofline, "CPU_SIDES", (128,))
    return tmp_path / "cache"


def test_ideal_time_is_the_longer_of_memory_and_arithmetic_step_by_step() -> None:
    assert [BY_HAND.bandwidth(size) for size in (1, 100, 999, 1000, 5000)] == [1000.0, 1000.0, 1000.0, 100.0, 100.0]
    works = [Work(flops=100, num_bytes=100), Work(flops=100, num_bytes=1000), Work(flops=1000, num_bytes=1000)]
    # memory 0.1, 10, 10 s; arithmetic 2, 2, 20 s
    assert ideal_seconds(BY_HAND, works) == (2.0 + 10.0 + 20.0, 10.0)
    assert ideal_seconds(BY_HAND, []) == (0.0, 0.0)


def test_a_measurement_is_in_the_range_of_real_machines() -> None:
    started = time.perf_counter()
    measured = roofline.measure_roofline("cpu", torch.float32)
    assert time.perf_counter() - started < 5  # about 0.4 s on an idle machine
    assert 1e9 < measured.flops_per_s < 1e14
    assert all(1e8 < speed < 1e13 for _, speed in measured.bandwidths)
    speeds = [speed for _, speed in measured.bandwidths]
    assert speeds == sorted(speeds, reverse=True) and measured.memory_bandwidth == speeds[-1]
    assert f"{torch.get_num_threads()} threads, float32, torch {torch.__version__}" in measured.machine


def test_the_best_of_three_measurements_is_kept_for_each_precision(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = machine_name("cpu", torch.float32)
    speeds = iter([(5.0, 9.0, 1.0), (7.0, 8.0, 2.0), (6.0, 4.0, 3.0)])

    def measured(*_: object) -> Roofline:
        flops, near, far = next(speeds, (0.0, 0.0, 0.0))
        assert flops, "measured a fourth time"
        return Roofline(name, ((1, near), (2, far)), flops, time.time())

    monkeypatch.setattr(roofline, "measure_roofline", measured)
    found = [machine_roofline("cpu", torch.float32) for _ in range(5)]
    assert [(one.flops_per_s, *(speed for _, speed in one.bandwidths)) for one in found] == [
        (5.0, 9.0, 1.0), (7.0, 9.0, 2.0), (7.0, 9.0, 3.0), (7.0, 9.0, 3.0), (7.0, 9.0, 3.0),
    ]  # fmt: skip
    [path] = (cache / "roofline").iterdir()
    assert kept(path, Roofline) == found[-1] and found[-1].measured_at == found[0].measured_at
    monkeypatch.setattr(roofline, "measure_roofline", lambda *_: pytest.fail("measured again"))
    with pytest.raises(pytest.fail.Exception):
        machine_roofline("cpu", torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [
        {"measured_at": time.time() - 31 * 86_400, "flops_per_s": 1e30},
        {"measured_at": time.time() + 86_400},
        {"machine": "another"},
        {"flops_per_s": 0},
        {"flops_per_s": float("nan")},
        {"flops_per_s": "fast"},
        {"bandwidths": []},
        {"bandwidths": [[1, -5.0]]},
        {"bandwidths": 7},
    ],
)
def test_what_makes_no_sense_or_is_too_old_is_measured_again(cache: Path, change: dict[str, object]) -> None:
    machine_roofline("cpu", torch.float32)
    [path] = (cache / "roofline").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    again = machine_roofline("cpu", torch.float32)
    assert again == kept(path, Roofline) and abs(again.measured_at - time.time()) < 60
    assert again.machine == machine_name("cpu", torch.float32) and again.measurements == 1
    assert again.flops_per_s < 1e20


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"machine": 1}'])
def test_a_corrupt_file_is_measured_again(cache: Path, content: bytes) -> None:
    machine_roofline("cpu", torch.float32)
    [path] = (cache / "roofline").iterdir()
    path.write_bytes(content)
    assert kept(path, Roofline) is None
    assert machine_roofline("cpu", torch.float32) == kept(path, Roofline)


def test_a_cache_that_cannot_be_written_stops_nothing(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert machine_roofline("cpu", torch.float32).flops_per_s > 0


def test_memory_in_use_is_at_most_its_peak_and_grows_with_what_is_held() -> None:
    before = memory_metrics("cpu")
    held = mmap.mmap(-1, 256 << 20)  # pages of its own, where a tensor could reuse what an earlier test has freed
    for _ in range(256):
        held.write(b"1" * (1 << 20))
    after = memory_metrics("cpu")
    assert 0.01 < before["memory/resident_gb"] <= before["memory/peak_gb"] + 0.01
    assert after["memory/resident_gb"] - before["memory/resident_gb"] == pytest.approx(0.268, abs=0.08)
    assert after["memory/peak_gb"] >= after["memory/resident_gb"] - 0.01 and not held.closed


@pytest.mark.parametrize(
    ("gpu", "bfloat16", "gigabytes"),
    [
        ("NVIDIA H200", 989.4, 4800),
        ("NVIDIA H100 80GB HBM3", 989.4, 3350),
        ("NVIDIA H100 PCIe", 756.0, 2000),
        ("NVIDIA A100-SXM4-40GB", 312.0, 1555),
        ("NVIDIA A100 80GB PCIe", 312.0, 1935),
        ("Tesla T4", None, 320),
        ("NVIDIA GeForce RTX 4090", 165.2, 1008),
    ],
)
def test_data_sheets_are_found_by_the_drivers_names(gpu: str, bfloat16: float | None, gigabytes: float) -> None:
    sheet = data_sheet(gpu)
    assert sheet is not None and sheet.bytes_per_s == gigabytes * 1e9
    assert sheet.flops_per_s.get(torch.bfloat16) == (None if bfloat16 is None else bfloat16 * 1e12)


def test_a_gpu_without_a_data_sheet_here_has_none() -> None:
    assert data_sheet("NVIDIA RTX PRO 9000") is None and data_sheet("NVIDIA T400") is None


@pytest.mark.gpu
def test_a_gpu_gives_less_than_its_data_sheet_promises() -> None:
    measured = roofline.measure_roofline("cuda", torch.bfloat16)
    sheet = data_sheet(torch.cuda.get_device_name())
    assert measured.flops_per_s > 1e12
    if sheet is not None:
        assert 0.3 < measured.flops_per_s / sheet.flops_per_s[torch.bfloat16] < 1.05
        assert 0.5 < measured.memory_bandwidth / sheet.bytes_per_s < 1.05
