"""How much memory the process takes, asked of the operating system and of the device."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

GIGABYTE = 1e9


def memory_metrics(device: str) -> dict[str, float]:
    """Return gigabytes (10^9 bytes) in use now and at most so far, as far as this machine tells.

    memory/resident_gb, memory/peak_gb: of the process, its peak since it began. memory/device_gb,
    memory/device_peak_gb: held by tensors on a CUDA device, the peak since somebody last reset it. Nothing is reset
    here: whoever measures peaks of their own is not disturbed.
    """
    metrics = {
        "memory/resident_gb": _status_bytes("VmRSS"),
        "memory/peak_gb": _status_bytes("VmHWM") or _peak_usage_bytes(),
    }
    if device.startswith("cuda"):
        metrics |= {
            "memory/device_gb": torch.cuda.memory_allocated(device),
            "memory/device_peak_gb": torch.cuda.max_memory_allocated(device),
        }
    return {name: value / GIGABYTE for name, value in metrics.items() if value}


def device_bytes(device: str) -> int | None:
    """Return what a device can hold in all: GPU memory, or main memory as far as this process may use it."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = []
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # A container's own limit: control groups, version 2 and 1.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text().strip()))
    return min(limits, default=None)


def free_bytes(device: str) -> int | None:
    """Return what of a device's memory can be had now, None where the machine does not tell."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _status_bytes(name: str) -> int:
    """Return a size from Linux's /proc/self/status, 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


def _peak_usage_bytes() -> int:
    """Return the process's peak by getrusage, 0 on systems without it. macOS counts bytes, others kibibytes."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
