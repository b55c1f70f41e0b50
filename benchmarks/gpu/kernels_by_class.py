"""What a device spends its time on: the kernels of a profile, by what they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.profiler import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

_CLASSES = (
    ("attention", ("_attend", "_merge", "flash", "fmha", "attention", "sdpa")),
    ("sampling", ("_sum_chunks", "_draw", "softmax", "cumsum", "scan", "multinomial", "searchsorted")),
    ("products", ("gemm", "nvjet", "cutlass", "cublas", "xmma", "splitk", "gemv", "_mm_")),
    ("norms and rotation", ("_add_norm", "_rotate", "norm", "rsqrt", "rope")),
    ("gate", ("_gate", "silu")),
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("copies", ("memcpy", "memset", "copy", "cat", "cast")),
    ("gathers", ("index", "gather", "scatter", "embedding")),
)
"""Class -> words in a kernel's name; the first class with a word that is in the name."""


@dataclass(frozen=True, slots=True)
class Span:
    """What ran from start to end, in microseconds, on the device or on the host."""

    start: float
    end: float
    name: str
    on_device: bool = True


def kernel_class(name: str) -> str:
    """Return what a kernel is for, by its name.

    Example:
        >>> kernel_class("nvjet_tst_128x64"), kernel_class("_attend_own"), kernel_class("vectorized_elementwise_kernel")
        ('products', 'attention', 'elementwise')
    """
    lower = name.lower()
    for label, words in _CLASSES:
        if any(word in lower for word in words):
            return label
    return "elementwise" if "elementwise" in lower or "reduce" in lower else "other"


def profiled(work: Callable[[], Any], device: str) -> list[Span]:
    """Return all that a profile of the work saw, by start: kernels on the device, operators and parts on the host.

    Read from the profiler's own results: a step is a quarter of a million events, and torch's list of them takes
    10 s to make, which the device would have to wait for (0.15 s as here).
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    results: Any = profiler.profiler
    spans = [
        Span(e.start_ns() / 1e3, (e.start_ns() + e.duration_ns()) / 1e3, e.name(), e.device_type() != DeviceType.CPU)
        for e in results.kineto_results.events()
    ]
    return sorted(spans, key=lambda span: span.start)


def device_spans(spans: Iterable[Span]) -> list[Span]:
    """Return what ran on the device, marks of parts left out."""
    return [s for s in spans if s.on_device and s.end > s.start and not s.name.startswith(SPAN)]


SPAN = "part: "
"""How the names of parts marked with `torch.profiler.record_function` begin: they are told on the device too."""


def class_seconds(spans: Iterable[Span]) -> dict[str, float]:
    """Return the device's seconds by class, the largest first."""
    totals: dict[str, float] = {}
    for span in spans:
        label = kernel_class(span.name)
        totals[label] = totals.get(label, 0.0) + (span.end - span.start) / 1e6
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]))


def longest_kernels(spans: Iterable[Span], count: int = 8) -> dict[str, float]:
    """Return the seconds of the kernels that took the most, by name."""
    totals: dict[str, float] = {}
    for span in spans:
        totals[span.name[:80]] = totals.get(span.name[:80], 0.0) + (span.end - span.start) / 1e6
    return dict(sorted(totals.items(), key=lambda pair: -pair[1])[:count])


def busy_us(spans: Sequence[Span], low: float, high: float) -> float:
    """Return for how long of [low, high] at least one of the spans, sorted by start, was under way.

    Example:
        >>> busy_us([Span(0, 4, "a"), Span(2, 6, "b"), Span(8, 9, "c")], 1, 10)
        6.0
    """
    total, reached = 0.0, low
    for span in spans:
        start, end = max(span.start, reached), min(span.end, high)
        if end > start:
            total, reached = total + end - start, end
    return float(total)
