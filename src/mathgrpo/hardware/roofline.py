"""What this machine gives: memory bandwidth and arithmetic, measured and kept.

The roofline (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785): no program is faster than its bytes
over the bandwidth, nor than its FLOPs over the arithmetic. Bandwidth depends on where the bytes lie, so it is measured
in caches too: a small model's weights never leave them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from mathgrpo.cache import keep, kept, machine_file
from mathgrpo.hardware.flops import Work
from mathgrpo.hardware.processor import cpu_name

MEASUREMENTS = 3
"""Runs that measure the machine before it counts as known: one of them is likely to meet it idle."""
MAX_AGE_S = 30 * 86_400
"""An older measurement is made anew: drivers and neighbours change."""
SECONDS_A_TEST = 0.03
"""Time one test is repeated for; the fastest repeat counts, because whatever disturbs only slows down."""
CPU_MEGABYTES, CUDA_MEGABYTES = (1, 8, 64), (16, 1024)
CPU_SIDES, CUDA_SIDES = (512, 1024), (4096, 8192)
"""Buffer sizes and matrix sides tried. The largest buffer must exceed the caches."""


Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Roofline:
    """What a machine was measured to give in one precision.

    Attributes:
        machine: device, threads, precision and library it was measured with.
        bandwidths: (bytes in use, bytes per second) ascending; the last is main memory's.
        flops_per_s: of a large matrix product.
        measured_at: seconds since 1970, of the first measurement.
        measurements: how many these numbers are the best of.
    """

    machine: str
    bandwidths: Annotated[tuple[tuple[int, Speed], ...], Field(min_length=1)]
    flops_per_s: Speed
    measured_at: float
    measurements: int = 1

    @property
    def memory_bandwidth(self) -> float:
        """Bytes per second of main memory."""
        return self.bandwidths[-1][1]

    def bandwidth(self, num_bytes: int) -> float:
        """Return the bytes per second at which so many different bytes can be read again and again.

        Between two sizes measured the smaller one's: the bound must not be too low for what fits a cache.
        """
        fitting = [speed for size, speed in self.bandwidths if size <= num_bytes]
        return fitting[-1] if fitting else self.bandwidths[0][1]


def ideal_seconds(roofline: Roofline, works: Iterable[Work]) -> tuple[float, float]:
    """Return the least time of works done one after the other, and the part of it that memory decides.

    Each takes the longer of its memory time and its arithmetic time.
    """
    pairs = [(w.num_bytes / roofline.bandwidth(w.num_bytes), w.flops / roofline.flops_per_s) for w in works]
    return sum(max(pair) for pair in pairs), sum(memory for memory, arithmetic in pairs if memory > arithmetic)


def machine_roofline(device: str, dtype: torch.dtype) -> Roofline:
    """Return this machine's roofline, from the cache folder; it is measured in the first MEASUREMENTS runs.

    A measurement takes about 0.4 s. Of several the best numbers are kept: whatever else goes on only slows down.
    A file that is missing, unreadable, of another machine or too old is replaced; one that cannot be written is left.
    """
    machine = machine_name(device, dtype)
    path = machine_file("roofline", machine)
    known = kept(path, Roofline)
    if known is not None and not (known.machine == machine and 0 <= time.time() - known.measured_at < MAX_AGE_S):
        known = None
    if known is not None and known.measurements >= MEASUREMENTS:
        return known
    measured = measure_roofline(device, dtype)
    measured = measured if known is None else best_of(known, measured)
    keep(path, json.dumps(asdict(measured), indent=1) + "\n")
    return measured


def measure_roofline(device: str, dtype: torch.dtype) -> Roofline:
    """Return this machine's roofline, measured now."""
    on_cuda = device.startswith("cuda")
    megabytes, sides = (CUDA_MEGABYTES, CUDA_SIDES) if on_cuda else (CPU_MEGABYTES, CPU_SIDES)
    with torch.inference_mode():
        bandwidths = [(size << 20, measure_bandwidth(device, size << 20)) for size in megabytes]
        flops_per_s = max(measure_arithmetic(device, dtype, side) for side in sides)
    return Roofline(machine_name(device, dtype), _falling(bandwidths), flops_per_s, time.time())


def best_of(first: Roofline, second: Roofline) -> Roofline:
    """Return the better numbers of two measurements of one machine; the first's date, so that it grows old."""
    speeds = dict(first.bandwidths)
    merged = [(size, max(speed, speeds.get(size, 0.0))) for size, speed in second.bandwidths]
    arithmetic = max(first.flops_per_s, second.flops_per_s)
    return Roofline(second.machine, _falling(merged), arithmetic, first.measured_at, first.measurements + 1)


def measure_bandwidth(device: str, num_bytes: int) -> float:
    """Return bytes per second of reading a buffer, or of copying one half of it to the other, whichever is more.

    The copy is STREAM's (McCalpin 1995): a byte read and written counts twice.
    """
    buffer = torch.ones(num_bytes // 4, device=device)
    first, second = buffer.chunk(2)
    fastest = min(_fastest(lambda: buffer.sum(), device), _fastest(lambda: second.copy_(first), device))
    return num_bytes / fastest


def measure_arithmetic(device: str, dtype: torch.dtype, side: int) -> float:
    """Return FLOPs per second of a product of square random matrices; equal numbers draw less power and run faster."""
    generator = torch.Generator(device=device).manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)
    return 2 * side**3 / _fastest(lambda: torch.mm(left, right, out=result), device)


def machine_name(device: str, dtype: torch.dtype) -> str:
    """Return what a measurement holds for: device, threads, precision, library."""
    precision = str(dtype).removeprefix("torch.")
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, {precision}, torch {torch.__version__}"
    return f"{cpu_name()}, {torch.get_num_threads()} threads, {precision}, torch {torch.__version__}"


def _falling(bandwidths: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return the bandwidths with none above that of a smaller buffer's: what is faster at more bytes was disturbed.

    Example:
        >>> _falling([(1, 50.0), (8, 60.0), (64, 20.0)])
        ((1, 60.0), (8, 60.0), (64, 20.0))
    """
    speeds = [speed for _, speed in bandwidths]
    return tuple((size, max(speeds[i:])) for i, (size, _) in enumerate(bandwidths))


def _fastest(function: Callable[[], Any], device: str) -> float:
    """Return the seconds of the fastest of as many calls as fit into SECONDS_A_TEST, three at least."""
    wait = partial(torch.cuda.synchronize, device) if device.startswith("cuda") else lambda: None
    function()
    fastest, end, calls = float("inf"), time.perf_counter() + SECONDS_A_TEST, 0
    while calls < 3 or time.perf_counter() < end:
        wait()
        started = time.perf_counter()
        function()
        wait()
        fastest, calls = min(fastest, time.perf_counter() - started), calls + 1
    return fastest
