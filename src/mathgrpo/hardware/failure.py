"""What a device fails from: memory that ran out, a device lost to its process; told apart from all else."""

from __future__ import annotations

import gc

from mathgrpo.errors import UserError, first_line

_NO_MEMORY = ("can't allocate memory", "status_alloc_failed", "out of memory")
_LOST = ("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address",
         "illegal instruction", "illegal address")  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on the GPU or on the host.

    The CPU's allocator and CUDA's libraries (CUBLAS_STATUS_ALLOC_FAILED) raise a RuntimeError, known by its words;
    torch.OutOfMemoryError is one too, and says so. Torch is not imported for it: a process may not have it.
    """
    told = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
    return told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def release_memory() -> None:
    """Give unused memory back to the device, so that a smaller attempt finds it unfragmented."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_device_lost(error: BaseException | str) -> bool:
    """Return whether an error leaves the process without its CUDA context: whatever it asks of the device next fails.

    Known by its words only: torch and Triton raise a plain RuntimeError ("CUDA error: an illegal memory access was
    encountered").
    """
    words = str(error).lower()
    return any(lost in words for lost in _LOST)


def pass_on(error: Exception, setting: str, remedy: str) -> None:
    """Raise what a trial of something new must not take for a no: then nothing else can be tried either.

    A lack of memory is raised as it is; a lost device as a UserError that names the setting and, as section.key=value,
    the remedy. All else is the caller's to judge.
    """
    if is_out_of_memory(error):
        raise error
    if is_device_lost(error):
        raise UserError(
            f"{setting}: its trial lost the device ({first_line(error, 120)}); start again with --set {remedy}"
        ) from error
