"""What is uploaded arrives as it was, whatever the device is busy with."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from mathgrpo.hardware.cuda_care import upload, uploaded


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


def test_a_record_goes_with_all_that_is_in_it() -> None:
    @dataclass(frozen=True)
    class Inner:
        rows: torch.Tensor
        missing: torch.Tensor | None = None

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        parts: tuple[Inner, ...]
        spans: tuple[tuple[int, int], ...] = ((0, 3),)

    given = Outer(Inner(torch.zeros(2)), (Inner(torch.ones(3), torch.ones(1)), Inner(torch.ones(4))))
    there = uploaded(given, "meta")
    tensors = (there.inner.rows, *(part.rows for part in there.parts), there.parts[0].missing)
    assert [t.device.type for t in tensors] == ["meta"] * 4 and [len(t) for t in tensors] == [2, 3, 4, 1]
    assert there.spans == ((0, 3),) and there.inner.missing is None and given.inner.rows.device.type == "cpu"
