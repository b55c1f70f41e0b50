"""Numbers from the host to a device, without waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def upload(values: Any, device: torch.device | str) -> Tensor:
    """Return a tensor, or what `torch.tensor` takes, on a device.

    A copy to CUDA from ordinary memory waits until the device has done all it was told before; from pinned memory it is
    one more thing that the device is told. Its memory is kept until the copy has run, also when nobody holds it any
    more (torch's caching host allocator waits for the event it recorded).
    """
    table = values if isinstance(values, Tensor) else torch.tensor(values)
    if torch.device(device).type != "cuda":
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)
