"""Memory of this process and of the accelerator."""

from __future__ import annotations

from pathlib import Path


def status_bytes(field: str, status: str) -> int:
    """Return a size of Linux' /proc/<pid>/status in bytes, 0 when it is not there.

    Example:
        >>> status_bytes("VmHWM", "VmPeak:  10 kB\\nVmHWM:\\t   3 kB\\n")
        3072
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def resident_bytes() -> int:
    """Return the memory this process has now (VmRSS), 0 where the system does not say."""
    return status_bytes("VmRSS", _status())


def peak_bytes(device: str) -> int:
    """Return the most memory since `reset_peak`: the process's (VmHWM), or the device's as PyTorch counts it."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    return status_bytes("VmHWM", _status())


def reset_peak(device: str) -> bool:
    """Begin a new peak; return whether the system allows it (Linux: proc(5), clear_refs, value 5)."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status() -> str:
    try:
        return Path("/proc/self/status").read_text()
    except OSError:
        return ""
