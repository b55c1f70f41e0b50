"""What GPU makers promise: dense arithmetic and memory bandwidth from data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DataSheet:
    """Peak numbers of a GPU: FLOPs per second by precision (dense, without sparsity), bytes per second.

    float32 is the plain one, without TF32; bfloat16 is absent where the GPU has no unit for it.
    """

    flops_per_s: dict[torch.dtype, float]
    bytes_per_s: float


def _sheet(bfloat16: float, float32: float, gigabytes: float) -> DataSheet:
    tera = {torch.bfloat16: bfloat16, torch.float32: float32}
    return DataSheet({dtype: 1e12 * value for dtype, value in tera.items() if value}, 1e9 * gigabytes)


DATA_SHEETS = {
    # NVIDIA data sheets "H200 Tensor Core GPU", "H100 Tensor Core GPU", "A100 Tensor Core GPU" and "T4 70W Low Profile
    # PCIe GPU Accelerator"; their bfloat16 numbers with sparsity are halved here. "GeForce RTX 4090": white paper
    # "NVIDIA Ada GPU Architecture", table 2, products summed in float32.
    "H200 NVL": _sheet(835.5, 60.0, 4800),
    "H200": _sheet(989.4, 67.0, 4800),
    "H100 PCIe": _sheet(756.0, 51.0, 2000),
    "H100 NVL": _sheet(835.5, 60.0, 3900),
    "H100": _sheet(989.4, 67.0, 3350),
    "A100-SXM4-80GB": _sheet(312.0, 19.5, 2039),
    "A100 80GB PCIe": _sheet(312.0, 19.5, 1935),
    "A100": _sheet(312.0, 19.5, 1555),
    "T4": _sheet(0.0, 8.1, 320),
    "RTX 4090": _sheet(165.2, 82.6, 1008),
}
"""Part of the name that the driver reports -> data sheet; the first that fits counts."""


def data_sheet(gpu: str) -> DataSheet | None:
    """Return the data sheet of a GPU by the name its driver reports, None where none is known here.

    Example:
        >>> data_sheet("NVIDIA H100 80GB HBM3").bytes_per_s / 1e12
        3.35
    """
    return next((sheet for part, sheet in DATA_SHEETS.items() if re.search(rf"\b{part}\b", gpu)), None)
