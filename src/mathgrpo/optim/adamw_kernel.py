"""One Triton kernel for a whole AdamW step: reads gradient, weight and moments, writes weight, moments and 16-bit copy.

Every tensor of the model is served by one launch: a table holds the addresses, and each program takes one block of
one tensor. 30 bytes move for each weight, 34 when torch's fused AdamW is followed by a copy, over 60 when every
operation is a launch of its own.

Formulas: Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2 (arXiv 1711.05101), in the order of
torch.optim.AdamW: decay, moments, bias corrections, step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mathgrpo.hardware.cuda_care import upload

BLOCK = 4096
"""Weights of one program."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of a step; all of the same size, float32 and contiguous, the copy 16-bit or None.

    Attributes:
        decay: 1 - learning rate * weight decay.
        step_size: learning rate / (1 - beta1^t).
        root_scale: 1 / sqrt(1 - beta2^t).
    """

    grad: Tensor
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    copy: Tensor | None
    decay: float
    step_size: float
    root_scale: float


@triton.jit  # type: ignore[untyped-decorator]
def _adamw_kernel(  # type: ignore[no-untyped-def]
    addresses, factors, tensor_of_block, start_of_block, beta1, beta2, eps,
    COPY_TYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # A row of addresses: gradient, weight, first moment, second moment, copy (0 for none), number of weights. A row of
    # factors: 1 - rate * decay, rate / bias correction 1, 1 / root of bias correction 2.
    block = tl.program_id(0)
    tensor = tl.load(tensor_of_block + block).to(tl.int64)
    offsets = tl.multiple_of(tl.load(start_of_block + block), BLOCK) + tl.arange(0, BLOCK)
    row = addresses + tensor * 6
    grad_at = tl.load(row).to(tl.pointer_type(tl.float32))
    weight_at = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    first_at = tl.load(row + 2).to(tl.pointer_type(tl.float32))
    second_at = tl.load(row + 3).to(tl.pointer_type(tl.float32))
    copy_address = tl.load(row + 4)
    copy_at = copy_address.to(tl.pointer_type(COPY_TYPE))
    size = tl.load(row + 5)
    if ALIGNED:
        # The compiler cannot know where an address from a table points, nor that four neighbours are inside together or
        # not at all; without this, loads are one number wide.
        grad_at = tl.multiple_of(grad_at, 16)
        weight_at = tl.multiple_of(weight_at, 16)
        first_at = tl.multiple_of(first_at, 16)
        second_at = tl.multiple_of(second_at, 16)
        copy_at = tl.multiple_of(copy_at, 16)
        size = tl.multiple_of(size, 16)
    inside = offsets < size
    decay = tl.load(factors + tensor * 3)
    step_size = tl.load(factors + tensor * 3 + 1)
    root_scale = tl.load(factors + tensor * 3 + 2)
    grad = tl.load(grad_at + offsets, mask=inside, other=0.0)
    weight = tl.load(weight_at + offsets, mask=inside, other=0.0) * decay
    first = tl.load(first_at + offsets, mask=inside, other=0.0)
    second = tl.load(second_at + offsets, mask=inside, other=0.0)
    first = first + (1.0 - beta1) * (grad - first)
    second = beta2 * second + (1.0 - beta2) * grad * grad
    weight = weight - step_size * first / (tl.sqrt(second) * root_scale + eps)
    tl.store(weight_at + offsets, weight, mask=inside)
    tl.store(first_at + offsets, first, mask=inside)
    tl.store(second_at + offsets, second, mask=inside)
    tl.store(copy_at + offsets, weight.to(COPY_TYPE), mask=inside & (copy_address != 0))


class AdamWKernel:
    """Launches the kernel; keeps the tables that depend on the sizes alone."""

    def __init__(self) -> None:
        self._sizes: tuple[int, ...] = ()
        self._tensor_of_block = self._start_of_block = torch.empty(0)

    def step(self, rows: Sequence[Row], beta1: float, beta2: float, eps: float) -> None:
        """Take one step on every row. Everything is on one device.

        Raises: ValueError for a tensor that is not float32, not contiguous or not as large as its weight.
        """
        if not rows:
            return
        for row in rows:
            _check(row)
        device = rows[0].weight.device
        self._plan_blocks(tuple(row.weight.numel() for row in rows), device)
        addresses = [[*(t.data_ptr() for t in _tensors(row)), _address(row.copy), row.weight.numel()] for row in rows]
        factors = [[row.decay, row.step_size, row.root_scale] for row in rows]
        copies = {row.copy.dtype for row in rows if row.copy is not None}
        if len(copies) > 1:
            raise ValueError(f"copies of one step must have one precision, not {sorted(map(str, copies))}")
        _adamw_kernel[(len(self._start_of_block),)](
            upload(torch.tensor(addresses, dtype=torch.int64), device),
            upload(torch.tensor(factors, dtype=torch.float32), device),
            self._tensor_of_block, self._start_of_block, beta1, beta2, eps,
            COPY_TYPE=tl.float16 if copies == {torch.float16} else tl.bfloat16,
            ALIGNED=all(number % 16 == 0 for line in addresses for number in line),
            BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip

    def _plan_blocks(self, sizes: tuple[int, ...], device: torch.device) -> None:
        if sizes == self._sizes and self._start_of_block.device == device:
            return
        starts = [torch.arange(0, size, BLOCK, dtype=torch.int64) for size in sizes]
        counts = torch.tensor([len(part) for part in starts])
        self._sizes = sizes
        self._start_of_block = torch.cat(starts).to(device)
        self._tensor_of_block = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(counts).to(device)


def _tensors(row: Row) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return row.grad, row.weight, row.exp_avg, row.exp_avg_sq


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _check(row: Row) -> None:
    numbers = all(tensor.dtype == torch.float32 for tensor in _tensors(row))
    tensors = _tensors(row) if row.copy is None else (*_tensors(row), row.copy)
    if not numbers or not all(t.is_contiguous() and t.numel() == row.weight.numel() for t in tensors):
        raise ValueError("the AdamW kernel needs contiguous float32 tensors of one size, and a copy of the same size")
