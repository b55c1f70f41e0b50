"""Freed memory stays with the process: fewer page faults, in a process of its own because the setting is for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from mathgrpo.hardware.device_memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    torch.empty(16 << 20).fill_(1.0)
before = faults()
for _ in range(20):
    torch.empty(16 << 20).fill_(1.0)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", PROGRAM, how], text=True))
        for how in ("default", "keep")
    }
    # 20 blocks of 64 MiB are 327,680 pages of 4 KiB, or 640 huge ones.
    assert faults["keep"] < faults["default"] / 10


KERNELS = """
import sys, torch
from mathgrpo.hardware.device_memory import bound_kernel_caches
from mathgrpo.hardware.device_memory import memory_metrics
torch.set_num_threads(1)
if sys.argv[1] == "bound":
    bound_kernel_caches()
resident = []
for rows in range(64, 64 + 400):
    torch.mm(torch.ones(rows, 192, dtype=torch.bfloat16), torch.ones(192, 512, dtype=torch.bfloat16))
    resident.append(memory_metrics("cpu")["memory/resident_gb"])
print(resident[-1] - resident[100])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_new_shapes_do_not_fill_the_memory_with_kernels() -> None:
    grown = {
        how: float(subprocess.check_output([sys.executable, "-c", KERNELS, how], text=True))
        for how in ("default", "bound")
    }
    assert grown["bound"] < 0.02
    print(grown)
