"""What is uploaded arrives as it was, whatever the device is busy with."""

from __future__ import annotations

import pytest
import torch

from mathgrpo.hardware.cuda_care import upload


def test_on_a_cpu_it_is_the_tensor_itself() -> None:
    table = torch.arange(6).view(2, 3)
    assert upload(table, "cpu") is table
    made = upload([[1, 2], [3, 4]], torch.device("cpu"))
    assert made.dtype == torch.int64 and made.tolist() == [[1, 2], [3, 4]]


@pytest.mark.gpu
def test_uploads_behind_a_busy_device_arrive_whole_and_the_host_does_not_wait() -> None:
    big = torch.randn(8192, 8192, device="cuda")
    first = [upload(torch.full((100_000,), i), "cuda") for i in range(20)]  # pinned memory is there from here on
    torch.cuda.synchronize()
    for _ in range(20):
        big = big @ big / 8192
    done = torch.cuda.Event()
    done.record()
    tables = [upload(torch.full((100_000,), i), "cuda") for i in range(20)]
    assert not done.query(), "the device is still at its products"
    assert [int(table.max()) for table in first] == list(range(20))
    assert [int(table.min()) for table in tables] == [int(table.max()) for table in tables] == list(range(20))
