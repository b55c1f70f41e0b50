"""Starting the processes of a run on this machine: torch.distributed.elastic starts them and sees them to their end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from mathgrpo.distributed.join import require_devices

ADDRESS = "127.0.0.1"
POLL_S = 0.1


def launch(arguments: Sequence[str], processes: int, device: str) -> int:
    """Run `mathgrpo ARGUMENTS` in several processes of this machine, and return the exit code of the first that failed.

    device: "cpu" or "cuda". On a CPU each process gets its part of the cores unless OMP_NUM_THREADS is set.
    Ctrl-C and SIGTERM are handed on to every process; when one fails or dies, all end.
    Raises: UserError when there are fewer CUDA devices than processes.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes

    require_devices(processes, device)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a failure is told in one line, here
    # The store lives here, so that it outlives every process, and its port is one that is free.
    store = TCPStore(ADDRESS, 0, None, True, timeout=timedelta(seconds=60), wait_for_workers=False)
    shared = _environment(processes, device) | {"MASTER_ADDR": ADDRESS, "MASTER_PORT": str(store.port)}
    ranks = range(processes)
    with tempfile.TemporaryDirectory(prefix="mathgrpo-processes-") as logs:
        context = start_processes(
            "mathgrpo", sys.executable, dict.fromkeys(ranks, ("-m", "mathgrpo", *arguments)),
            {rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
            DefaultLogsSpecs(logs, redirects={rank: Std.OUT for rank in ranks if rank}),
        )  # fmt: skip
        try:
            return _exit_code(context, processes)
        finally:
            context.close(signal.SIGKILL)


def _environment(processes: int, device: str) -> dict[str, str]:
    chosen = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}  # a container's own name leads nowhere
    if device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        chosen["OMP_NUM_THREADS"] = str(max(1, cores // processes))
    chosen = {name: value for name, value in chosen.items() if name not in os.environ}
    return chosen | {"WORLD_SIZE": str(processes), "TORCHELASTIC_USE_AGENT_STORE": "True"}


def _exit_code(context: Any, processes: int) -> int:
    """Wait for all processes, say what ended one that could not say it itself, and return the first failure's code."""
    from torch.distributed.elastic.multiprocessing import SignalException

    handed_on, result = set(), None
    while result is None:
        try:
            result = context.wait(period=POLL_S)
        except SignalException as stop:
            handed_on.add(stop.sigval)
            for pid in context.pids().values():
                with suppress(ProcessLookupError):
                    os.kill(pid, stop.sigval)
    rank, code = next(((rank, failure.exitcode) for rank, failure in result.failures.items()), (0, 0))
    if code < 0 and -code not in handed_on:
        memory = "; the system does so when memory runs out" if code == -signal.SIGKILL else ""
        print(
            f"error: process {rank} of {processes} was ended by {signal.Signals(-code).name}{memory}; "
            "continue from the last checkpoint with --resume RUN",
            file=sys.stderr,
        )
    return code if code >= 0 else 128 - code
