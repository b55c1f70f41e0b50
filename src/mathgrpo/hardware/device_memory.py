"""How much memory the process takes, and how much there is: asked of the operating system and of the device."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

GIGABYTE = 1e9


def memory_metrics(device: str) -> dict[str, float]:
    """Return gigabytes (10^9 bytes) in use now and at most so far, as far as this machine tells.

    memory/resident_gb, memory/peak_gb: of the process, its peak since it began. memory/device_gb,
    memory/device_peak_gb: held by tensors on a CUDA device, the peak since somebody last reset it. Nothing is reset
    here: whoever measures peaks of their own is not disturbed.
    """
    metrics = {"memory/resident_gb": psutil.Process().memory_info().rss, "memory/peak_gb": _peak_bytes()}
    if device.startswith("cuda"):
        metrics |= {
            "memory/device_gb": torch.cuda.memory_allocated(device),
            "memory/device_peak_gb": torch.cuda.max_memory_allocated(device),
        }
    return {name: value / GIGABYTE for name, value in metrics.items() if value}


def device_bytes(device: str) -> int:
    """Return what a device can hold in all: GPU memory, or main memory as far as this process may use it."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[1])
    limits: list[int] = [psutil.virtual_memory().total]
    # A container's own limit, which psutil does not know: control groups, version 2 and 1.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text().strip()))
    return min(limits)


def free_bytes(device: str) -> int:
    """Return what of a device's memory can be had now."""
    return int(torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available)


def _peak_bytes() -> int:
    """Return the process's peak. Linux's getrusage, unlike its /proc, counts what the parent had before it as well."""
    with suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
