"""Which of torch's kernels may serve scaled_dot_product_attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_cudnn_attention(device: torch.device | str) -> AbstractContextManager[Any]:
    """Return a context in which scaled_dot_product_attention on CUDA is served by torch's own kernels, never by cuDNN.

    On Hopper and Blackwell torch asks cuDNN first, which plans on the host for every shape it has not met: with torch
    2.11 on a B200 0.44 s forward and 0.55 s backward (github.com/modelscope/FunASR/issues/3704). Batches of rollouts
    and updates seldom have the same shape twice.
    """
    if torch.device(device).type != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
