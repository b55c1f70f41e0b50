"""What a device spends its time on: the kernels of a profile, by what they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.autograd.profiler import DeviceType  # type: ignore[attr-defined]

_CLASSES = (
    ("attention", ("_attend", "_merge", "flash", "fmha", "attention", "sdpa", "flex")),
    ("sampling", ("_sum_chunks", "_draw", "softmax", "cumsum", "scan", "multinomial", "searchsorted")),
    ("products", ("gemm", "nvjet", "cutlass", "cublas", "xmma", "splitk", "gemv", "_mm_")),
    ("norms and rotation", ("_add_norm", "_rotate", "norm", "rsqrt", "rope")),
    ("gate", ("_gate", "silu")),
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("copies", ("memcpy", "memset", "copy", "cat", "cast")),
    ("gathers", ("index", "gather", "scatter", "embedding")),
)
"""Class -> words in a kernel's name; the first class with a word that is in the name."""


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


def profiled(work: Callable[[], Any], device: str) -> list[Any]:
    """Return the events of a profile of the work; on a CPU those of its operators."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    return list(profiler.events() or [])


def device_spans(events: Iterable[Any]) -> list[tuple[float, float, str]]:
    """Return (start, end, name) of all that ran on the device, in microseconds, by start."""
    kind = DeviceType.CUDA
    spans = [(e.time_range.start, e.time_range.end, e.name) for e in events if e.device_type == kind]
    return sorted(span for span in spans if span[1] > span[0] and not span[2].startswith(SPAN))


SPAN = "part: "
"""How the names of parts marked with `torch.profiler.record_function` begin: they are told on the device too."""


def class_seconds(spans: Iterable[tuple[float, float, str]]) -> dict[str, float]:
    """Return the device's seconds by class, the largest first."""
    totals: dict[str, float] = {}
    for start, end, name in spans:
        label = kernel_class(name)
        totals[label] = totals.get(label, 0.0) + (end - start) / 1e6
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]))


def longest_kernels(spans: Iterable[tuple[float, float, str]], count: int = 8) -> dict[str, float]:
    """Return the seconds of the kernels that took the most, by name."""
    totals: dict[str, float] = {}
    for start, end, name in spans:
        totals[name[:80]] = totals.get(name[:80], 0.0) + (end - start) / 1e6
    return dict(sorted(totals.items(), key=lambda pair: -pair[1])[:count])


def busy_us(spans: Sequence[tuple[float, float, str]], low: float, high: float) -> float:
    """Return for how long of [low, high] at least one of the spans, sorted by start, was under way.

    Example:
        >>> busy_us([(0, 4, "a"), (2, 6, "b"), (8, 9, "c")], 1, 10)
        6.0
    """
    total, reached = 0.0, low
    for start, end, _ in spans:
        start, end = max(start, reached), min(end, high)
        if end > start:
            total, reached = total + end - start, end
    return float(total)
