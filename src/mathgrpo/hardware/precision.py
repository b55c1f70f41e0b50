"""Whether a CPU computes faster in bfloat16: measured once in a tenth of a second, and kept.

Processors with AVX512-BF16 or AMX multiply bfloat16 matrices two to ten times as fast as float32 ones; others convert
back and forth and are slower. The name of a processor does not tell, so two matrix products are timed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

import torch

from mathgrpo.cache import keep, kept, machine_file
from mathgrpo.errors import UserError
from mathgrpo.hardware.processor import cpu_name
from mathgrpo.hardware.roofline import measure_arithmetic

ENVIRONMENT = "MATHGRPO_CPU_DTYPE"
"""Environment variable that names the precision instead of a measurement: float32 or bfloat16."""
CLEARLY_FASTER = 1.5
"""Ratio of the two products' times from which bfloat16 is used: a step is more than its matrix products."""
SIDE = 512
"""Of the matrices: as many FLOPs as a feed-forward layer of a small transformer on a micro-batch."""


@dataclass(frozen=True, slots=True)
class CpuPrecision:
    """The precision a CPU computes fastest in.

    Attributes:
        ratio: time of the float32 product over that of the bfloat16 one; 0 when it was not measured.
        machine: processor, threads and library it holds for.
        named: "float32" or "bfloat16" where the environment says so.
    """

    ratio: float
    machine: str
    named: str = ""

    @property
    def dtype(self) -> str:
        """Its name."""
        return self.named or ("bfloat16" if self.ratio >= CLEARLY_FASTER else "float32")

    @property
    def reason(self) -> str:
        """One line for the run's log."""
        if self.named:
            return f"model.dtype=auto is {self.dtype}: {ENVIRONMENT} says so"
        return f"model.dtype=auto is {self.dtype}: bfloat16 products take 1/{self.ratio:.1f} of float32's time here"


def cpu_precision() -> CpuPrecision:
    """Return this machine's decision, from the environment, the cache folder, or a measurement that is then kept.

    Raises: UserError when the environment variable holds anything else than a precision.
    """
    named = os.environ.get(ENVIRONMENT, "")
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    if named:
        if named not in ("float32", "bfloat16"):
            raise UserError(f"{ENVIRONMENT}={named}: allowed are float32 and bfloat16; or unset it to have it measured")
        return CpuPrecision(0.0, machine, named)
    path = machine_file("precision", machine)
    known = kept(path, CpuPrecision)
    if known is not None and known == CpuPrecision(known.ratio, machine) and known.ratio > 0:
        return known
    measured = CpuPrecision(measure_ratio(), machine)
    keep(path, json.dumps(asdict(measured), indent=1) + "\n")
    return measured


@torch.inference_mode()
def measure_ratio() -> float:
    """Return how many times longer a matrix product takes in float32 than in bfloat16, on this CPU, now."""
    return measure_arithmetic("cpu", torch.bfloat16, SIDE) / measure_arithmetic("cpu", torch.float32, SIDE)
