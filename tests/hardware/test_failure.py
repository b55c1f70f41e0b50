"""Which errors mean that memory ran out, which that the device is lost, and what a trial does with them."""

from __future__ import annotations

import pytest
import torch

from mathgrpo.errors import UserError
from mathgrpo.hardware.cuda_care import is_device_lost, is_out_of_memory, pass_on


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"), True),
        (RuntimeError("Triton Error [CUDA]: misaligned address"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), False),
        (RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"), False),
        ("a sentence", False),
    ],
)
def test_an_error_is_known_by_its_words(error: BaseException | str, lost: bool) -> None:
    assert is_device_lost(error) == lost


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"), False),
        (UserError("1 tokens a micro-batch: out of memory with one completion at a time"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_type_or_words(error: Exception, ran_out: bool) -> None:
    assert is_out_of_memory(error) == ran_out


def test_a_trial_passes_on_what_is_no_answer_and_nothing_else() -> None:
    pass_on(ValueError("no kernel image"), "update attention flex", "run.engine=plain")
    for error in (MemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")):
        with pytest.raises(type(error)) as raised:
            pass_on(error, "update attention flex", "run.engine=plain")
        assert raised.value is error
    lost = RuntimeError("CUDA error: misaligned address\nmore")
    with pytest.raises(UserError) as said:
        pass_on(lost, "update attention flex", "run.engine=plain")
    assert str(said.value) == (
        "update attention flex: its trial lost the device (CUDA error: misaligned address); start again with "
        "--set run.engine=plain"
    )
