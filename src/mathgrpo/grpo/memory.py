"""Running out of memory, told apart from other failures."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on the GPU or in the CPU's allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator raises a plain RuntimeError, known by its words only.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error).lower()


def release_memory() -> None:
    """Give unused memory back to the device, so that a smaller attempt finds it unfragmented."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
