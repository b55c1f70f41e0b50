"""What a CUDA device asks of those who use it: which kernels may serve, uploads, failures told apart.

Torch is imported where it is used: a process that only tells failures apart may not have it.
"""

from __future__ import annotations

import gc
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from mathgrpo.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NO_MEMORY = ("can't allocate memory", "status_alloc_failed", "out of memory")
_LOST = ("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address",
         "illegal instruction", "illegal address")  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on the GPU or on the host.

    The CPU's allocator and CUDA's libraries (CUBLAS_STATUS_ALLOC_FAILED) raise a RuntimeError, known by its words;
    torch.OutOfMemoryError is one too, and says so.
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


def leave_cudnn_attention_out() -> None:
    """Have scaled_dot_product_attention served by torch's own kernels in this process, never by cuDNN.

    On Hopper and Blackwell torch asks cuDNN first, which plans on the host for every shape it has not met: with torch
    2.11 on a B200 0.44 s forward and 0.55 s backward (github.com/modelscope/FunASR/issues/3704). Batches of rollouts
    and updates seldom have the same shape twice.
    """
    from torch.backends import cuda

    cuda.enable_cudnn_sdp(False)


def upload(values: Any, device: torch.device | str) -> Tensor:
    """Return a tensor, or what `torch.tensor` takes, on a device.

    A copy to CUDA from ordinary memory waits until the device has done all it was told before; from pinned memory it is
    one more thing that the device is told. Its memory is kept until the copy has run, also when nobody holds it any
    more (torch's caching host allocator waits for the event it recorded).
    """
    import torch

    table = values if isinstance(values, torch.Tensor) else torch.tensor(values)
    if torch.device(device).type != "cuda":
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)


def uploaded(value: Any, device: torch.device | str) -> Any:
    """Return a record with every tensor in it, and in the records and tuples in it, on a device."""
    import torch

    if isinstance(value, torch.Tensor):
        return upload(value, device)
    if isinstance(value, tuple):
        return tuple(uploaded(each, device) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: uploaded(getattr(value, field.name), device) for field in fields(value)}
        return replace(value, **changed)
    return value
