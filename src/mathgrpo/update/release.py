"""Memory for another attempt."""

from __future__ import annotations

import gc

import torch


def release_memory() -> None:
    """Give unused memory back to the device, so that a smaller attempt finds it unfragmented."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
