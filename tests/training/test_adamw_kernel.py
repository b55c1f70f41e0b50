"""The AdamW kernel takes torch's step, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
triton = pytest.importorskip("triton", reason="triton is not installed")

from mathgrpo.optim.adamw_kernel import BLOCK, AdamWKernel, Row  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BETAS, EPS = (0.9, 0.99), 1e-8
SHAPES = [(3,), (17, 5), (BLOCK,), (2, BLOCK + 1)]
EVEN = [(16,), (16, 5), (BLOCK,), (2, BLOCK + 8)]
"""Sizes that are multiples of 16 only: then the kernel is compiled for wide loads."""


def rows_of(
    weights: list[torch.Tensor], grads: list[torch.Tensor], moments: list[tuple[torch.Tensor, torch.Tensor]],
    copies: list[torch.Tensor | None], step: int, rate: float, decay: float,
) -> list[Row]:  # fmt: skip
    factors = (1 - rate * decay, rate / (1 - BETAS[0] ** step), (1 - BETAS[1] ** step) ** -0.5)
    return [Row(g, w, *m, c, *factors) for g, w, m, c in zip(grads, weights, moments, copies, strict=True)]


@pytest.mark.parametrize("shapes", [SHAPES, EVEN])
@pytest.mark.parametrize(("decay", "precision"), [(0.0, torch.float16), (0.1, torch.bfloat16)])
def test_five_steps_are_torchs(decay: float, precision: torch.dtype, shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]
    theirs = [torch.nn.Parameter(w.double()) for w in weights]
    rounded = [torch.nn.Parameter(w.clone()) for w in weights]
    optimizer, single = (
        torch.optim.AdamW(p, lr=0.01, betas=BETAS, eps=EPS, weight_decay=decay) for p in (theirs, rounded)
    )
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    copies = [torch.zeros_like(w, dtype=precision) if i % 2 else None for i, w in enumerate(weights)]
    kernel = AdamWKernel()
    for step in range(1, 6):
        grads = [torch.randn(shape, generator=generator).to(DEVICE) * 10.0**-step for shape in shapes]
        kernel.step(rows_of(weights, grads, moments, copies, step, 0.01, decay), *BETAS, EPS)
        for parameter, other, grad in zip(theirs, rounded, grads, strict=True):
            parameter.grad, other.grad = grad.double(), grad.clone()
        optimizer.step()
        single.step()
    for weight, copy, parameter, other in zip(weights, copies, theirs, rounded, strict=True):
        error, torchs = ((w - parameter).abs().max().item() for w in (weight, other))
        assert error < 2 * torchs + 1e-7 < 1e-5
        if copy is not None and (precision == torch.float16 or DEVICE == "cuda"):
            assert torch.equal(copy, weight.to(precision))
        elif copy is not None:  # the interpreter cuts bfloat16 off where a GPU rounds
            torch.testing.assert_close(copy.float(), weight, atol=0, rtol=2**-7)
    for (first, second), parameter in zip(moments, theirs, strict=True):
        state = optimizer.state[parameter]
        torch.testing.assert_close(first, state["exp_avg"].float(), atol=1e-9, rtol=1e-5)
        torch.testing.assert_close(second, state["exp_avg_sq"].float(), atol=1e-12, rtol=1e-5)


def test_nothing_beyond_a_tensor_is_touched_and_unaligned_ones_are_served() -> None:
    memory = torch.full((5, 64), 7.0, device=DEVICE)
    grad, weight, first, second = (memory[i, 1:38] for i in range(4))
    first.zero_(), second.zero_(), grad.fill_(1.0)
    AdamWKernel().step(rows_of([weight], [grad], [(first, second)], [None], 1, 0.5, 0.0), *BETAS, EPS)
    # The first step of Adam is the learning rate in the gradient's direction.
    torch.testing.assert_close(weight, torch.full_like(weight, 6.5))
    assert bool((memory[:4, 0] == 7).all()) and bool((memory[:4, 38:] == 7).all()) and bool((memory[4] == 7).all())


def test_what_the_kernel_would_misread_is_refused() -> None:
    good = [torch.zeros(4, 4, device=DEVICE) for _ in range(4)]
    for bad in (good[0].half(), torch.zeros(4, 8, device=DEVICE)[:, ::2], torch.zeros(5, device=DEVICE)):
        with pytest.raises(ValueError, match="contiguous float32 tensors of one size"):
            AdamWKernel().step([Row(bad, good[1], good[2], good[3], None, 1.0, 0.1, 1.0)], *BETAS, EPS)
