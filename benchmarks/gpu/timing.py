"""Seconds of work on a device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.case import Setup
from mathgrpo.hardware.roofline import measure_arithmetic

_PEAK = "peak.json"


def device_seconds(work: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """Return the device's time of one call, the mean of `repeats` behind one another, after a call that is not timed.

    On a GPU between two events, so that what the host does meanwhile does not count unless the device waits for it.
    """
    work()
    if device != "cuda":
        return waiting_seconds(work, device, repeats)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def waiting_seconds(work: Callable[[], Any], device: str, repeats: int = 1) -> float:
    """Return the wall-clock time of one call with all it asks of the device; the fastest of `repeats`, after one more.

    Whatever else goes on only slows down.
    """
    return min([seconds_once(work, device) for _ in range(repeats + 1)][1:])


def seconds_once(work: Callable[[], Any], device: str) -> float:
    """Return the wall-clock time of one call with all it asks of the device, and of no call before it."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def measured_peak(setup: Setup) -> float:
    """Measure the FLOP/s of a large bfloat16 product, and leave them to the other stages of this run."""
    flops = measure_arithmetic(setup.device, torch.bfloat16, setup.pick(8192, 256))
    (setup.scratch / _PEAK).write_text(json.dumps(flops))
    return flops


def peak_flops(setup: Setup) -> float:
    """Return the peak that all shares refer to: as the facts stage measured it in this run, else measured now."""
    path = setup.scratch / _PEAK
    return float(json.loads(path.read_text())) if path.is_file() else measured_peak(setup)


def synchronize(device: str) -> None:
    """Wait until the device has done all it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def graphed(work: Callable[[], Any]) -> Callable[[], None]:
    """Return the replay of the work, captured as a CUDA graph after a warm-up on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
