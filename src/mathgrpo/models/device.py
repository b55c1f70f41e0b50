"""Where a model computes, and in which precision."""

from __future__ import annotations

import torch

from mathgrpo.errors import UserError


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda" (or "cuda:N") for a recipe's device.

    Raises: UserError when CUDA is asked for and there is none.

    Example:
        >>> resolve_device("cpu")
        'cpu'
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f'run.device={device}: PyTorch sees no CUDA device; use "auto" or "cpu"')
    return device


def compute_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the precision of matrix products: bfloat16 on CUDA and float32 on CPU for "auto"."""
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32
