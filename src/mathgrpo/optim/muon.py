"""Muon: momentum whose update is orthogonalised, for the matrices of a model trained from scratch.

Source: Jordan et al., https://kellerjordan.github.io/posts/muon/ (Newton-Schulz coefficients, Nesterov momentum).
Departs: torch.optim.Muon iterates in bfloat16, ten times slower than float32 on CPUs without bfloat16 units; this one
stays in float32 and orthogonalises all matrices of one shape in one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrices_NRC: Tensor) -> Tensor:
    """Return matrices with all singular values near 1 and the same singular vectors. Shape [N, R, C] in and out."""
    a, b, c = _COEFFICIENTS
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.transpose(1, 2) if tall else matrices_NRC
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.transpose(1, 2) if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Muon for two-dimensional parameters.

    Args:
        params: matrices [R, C].
        lr: length of an update in units of the matrix's orthogonal factor, times sqrt(max(1, R / C)).
        momentum: Nesterov momentum.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix once from its gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    by_shape.setdefault(param.shape, []).append(param)
            for shape, params in by_shape.items():
                updates = orthogonalised(torch.stack([self._nesterov(p, group["momentum"]) for p in params]))
                scale = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for param, update in zip(params, updates, strict=True):
                    param.add_(update, alpha=-scale)

    def _nesterov(self, param: Tensor, momentum: float) -> Tensor:
        """Return the look-ahead momentum of one gradient, keeping the running one in the optimizer's state."""
        assert param.grad is not None
        buffer = self.state[param].setdefault("momentum", torch.zeros_like(param))
        buffer.lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(buffer, momentum)
