"""A device that is lost to its process, told apart from failures that pass."""

from __future__ import annotations

_LOST = ("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address",
         "illegal instruction", "illegal address")  # fmt: skip


def is_device_lost(error: BaseException | str) -> bool:
    """Return whether an error leaves the process without its CUDA context: whatever it asks of the device next fails.

    Known by its words only: torch and Triton raise a plain RuntimeError ("CUDA error: an illegal memory access was
    encountered").
    """
    words = str(error).lower()
    return any(lost in words for lost in _LOST)
