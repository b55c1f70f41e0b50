"""Running out of memory, told apart from other failures."""

from __future__ import annotations

import gc

import torch

_WORDS = ("can't allocate memory", "status_alloc_failed", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on the GPU or in the CPU's allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator and CUDA's libraries (CUBLAS_STATUS_ALLOC_FAILED) raise a RuntimeError, known by its words.
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def release_memory() -> None:
    """Give unused memory back to the device, so that a smaller attempt finds it unfragmented."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
