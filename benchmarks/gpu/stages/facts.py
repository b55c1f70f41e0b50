"""The card, the versions, and the peaks that all shares refer to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.case import Case, Numbers, Setup
from benchmarks.gpu.timing import device_seconds, graphed, measured_peak, waiting_seconds
from benchmarks.machine import ask_nvidia_smi, machine_facts
from mathgrpo.hardware.processor import versions_of
from mathgrpo.hardware.roofline import measure_arithmetic

PACKAGES = ("torch", "transformers", "triton", "tokenizers", "safetensors", "peft", "accelerate", "numpy", "pydantic",
            "trl", "datasets", "math-verify", "bitsandbytes")  # fmt: skip


def cases(setup: Setup) -> Iterator[Case]:
    """Yield the facts, then each peak."""
    yield Case("card and versions", lambda: _card(setup))
    yield Case("bfloat16 product", lambda: {"tflops": measured_peak(setup) / 1e12}, size="8192³")
    yield Case("float32 product", lambda: _float32(setup), size="4096³")
    yield Case("copy", lambda: _copy(setup), size="two buffers of 2 GiB")
    yield Case("launches", lambda: _launches(setup))
    yield Case("host", lambda: _host(setup))


def _card(setup: Setup) -> Numbers:
    versions = versions_of(PACKAGES)
    numbers: Numbers = {"versions": versions, "cuda": str(torch.version.cuda), **machine_facts(setup.device)}
    numbers["driver"] = ask_nvidia_smi("driver_version,clocks.sm,clocks.mem,power.limit")
    if setup.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        numbers |= {
            "capability": f"{properties.major}.{properties.minor}", "multiprocessors": properties.multi_processor_count,
            "l2_mb": round(getattr(properties, "L2_cache_size", 0) / 1e6, 1),
            "cudnn": torch.backends.cudnn.version(), "free_gb": round(torch.cuda.mem_get_info()[0] / 1e9, 1),
        }  # fmt: skip
    return numbers


def _float32(setup: Setup) -> Numbers:
    return {"tflops": measure_arithmetic(setup.device, torch.float32, setup.pick(4096, 256)) / 1e12}


def _copy(setup: Setup) -> Numbers:
    """Measure a copy within the device; bytes are counted read and written."""
    source = torch.empty(setup.pick(1 << 31, 1 << 24), dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    seconds = device_seconds(lambda: target.copy_(source), setup.device, repeats=setup.pick(10, 3))
    return {"gb_per_s": 2 * source.nbytes / seconds / 1e9}


def _launches(setup: Setup) -> Numbers:
    """Measure what a kernel costs that does nothing: launched by itself, and as a node of a graph."""
    x = torch.zeros(1, device=setup.device)

    def add(count: int) -> Callable[[], Any]:
        def many() -> None:
            for _ in range(count):
                x.add_(1.0)

        return many

    count = setup.pick(1000, 20)
    numbers = {"launch_us": 1e6 * waiting_seconds(add(count), setup.device) / count}
    numbers["launch_host_us"] = 1e6 * _host_seconds(add(count), setup.device) / count
    if setup.device == "cuda":
        few, many = (device_seconds(graphed(add(n)), setup.device, repeats=10) for n in (1, count))
        numbers |= {"graph_node_us": 1e6 * (many - few) / (count - 1), "graph_launch_us": 1e6 * few}
    return numbers


def _host_seconds(work: Callable[[], Any], device: str) -> float:
    """Return what the host spends until all is in the queue."""
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    if device == "cuda":
        torch.cuda.synchronize()
    return seconds


def _host(setup: Setup) -> Numbers:
    """Measure the host: how fast Python is here, and the way to the device and back."""
    started = time.perf_counter()
    total = sum(i * i for i in range(1_000_000))
    numbers: Numbers = {"python": sys.version.split()[0], "million_squares_s": time.perf_counter() - started}
    assert total > 0
    host = torch.empty(setup.pick(1 << 28, 1 << 20), dtype=torch.uint8)
    if setup.device == "cuda":
        pinned, target = host.pin_memory(), torch.empty_like(host, device="cuda")
        numbers["to_device_gb_per_s"] = host.nbytes / device_seconds(lambda: target.copy_(pinned), "cuda") / 1e9
        x = torch.zeros(1, device="cuda")
        numbers["round_trip_us"] = 1e6 * waiting_seconds(lambda: x.add_(1.0).item(), "cuda", repeats=100)
    return numbers
