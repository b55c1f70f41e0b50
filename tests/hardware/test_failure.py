"""Which errors leave a process without its device."""

from __future__ import annotations

import pytest
import torch

from mathgrpo.hardware.failure import is_device_lost


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
