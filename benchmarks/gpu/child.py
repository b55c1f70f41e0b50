"""The process of one stage: runs its cases one after another, and tells the driver of each at once.

python -m benchmarks.gpu.child STAGE SETUP, with the messages' file descriptor in the environment. A message is a line
of JSON: {"begin": case, "size": ..., "limit_s": ...}, then {"case": ..., "status": ..., ...}.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TextIO

from benchmarks.gpu.case import Case, NotHere, Setup, WrongNumbers
from mathgrpo.errors import first_line
from mathgrpo.hardware.cuda_care import is_device_lost, is_out_of_memory

CHANNEL = "MATHGRPO_KIT_CHANNEL"
"""Environment variable with the file descriptor of the messages."""
LOST_DEVICE = 3
"""Exit code of a process whose CUDA context is no more: the next case needs a new one."""


def main() -> None:
    """Run the stage that the command line names."""
    stage, given = sys.argv[1], json.loads(sys.argv[2])
    setup = Setup(
        device=given["device"], rehearse=given["rehearse"], scratch=Path(given["scratch"]), log=Path(given["log"]),
        carried=Path(given["carried"]) if given["carried"] else None, deadline=time.monotonic() + given["limit_s"],
    )  # fmt: skip
    if setup.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it once, at its import
    with os.fdopen(int(os.environ[CHANNEL]), "w", buffering=1) as channel:
        module = importlib.import_module(f"benchmarks.gpu.stages.{stage}")
        run_cases(module.cases(setup), given["passed_over"], _writer(channel))


def run_cases(cases: Iterable[Case], passed_over: Collection[str], tell: Callable[[dict[str, Any]], None]) -> None:
    """Run the cases that are not to be passed over.

    A CUDA error that leaves the process without a device ends the process, with `LOST_DEVICE`.
    """
    for case in cases:
        if case.name in passed_over:
            continue
        tell({"begin": case.name, "size": case.size, "limit_s": case.limit_s})
        message, lost = run_case(case)
        tell(message)
        if lost:
            sys.exit(LOST_DEVICE)
        free_memory()


def run_case(case: Case) -> tuple[dict[str, Any], bool]:
    """Return what became of a case, and whether the device was lost with it."""
    reset_device_peak()
    started = time.perf_counter()
    message: dict[str, Any] = {"case": case.name, "status": "done", "size": case.size, "numbers": {}, "error": ""}
    try:
        message["numbers"] = case.run()
    except NotHere as error:
        message |= {"status": "skipped", "error": str(error)}
    except WrongNumbers as error:
        message |= {"status": "wrong", "error": str(error), "numbers": error.numbers}
    except Exception as error:  # whatever a device, a driver or a compiler raises is what the kit is there to report
        traceback.print_exc()
        message |= {
            "status": "out of memory" if is_out_of_memory(error) else "failed",
            "error": f"{type(error).__name__}: {first_line(error, 300)}",
        }
    lost = is_device_lost(message["error"])  # also where the code under test caught what the device raised
    message |= {"seconds": round(time.perf_counter() - started, 3), "peak_bytes": 0 if lost else device_peak_bytes()}
    return message, lost


def reset_device_peak() -> None:
    """Begin a new peak of device memory; without torch, or without a device, nothing."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def device_peak_bytes() -> int:
    """Return the most device memory that tensors held since `reset_device_peak`; 0 without a device."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_available() else 0


def free_memory() -> None:
    """Give back what the last case left behind."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _writer(channel: TextIO) -> Callable[[dict[str, Any]], None]:
    def tell(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message, default=str) + "\n")
        channel.flush()

    return tell


if __name__ == "__main__":
    main()
