"""Starting the processes of a run and joining them, so that nobody waits for the dead."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mathgrpo.distributed.world import SINGLE, FollowMain, PeerLost, World
from mathgrpo.errors import UserError, first_line

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
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return chosen | sizes | {"TORCHELASTIC_USE_AGENT_STORE": "True"}


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


FAILED = "mathgrpo/failed"
"""Key of the store: a process has failed."""
CONNECT_S = 300.0
"""Seconds in which the store must be there: the process that keeps it may have to import PyTorch first."""
WATCH_S = 0.5
"""Seconds between two looks at whether another process has failed."""
LEAVE_S = 2.0
"""Seconds in which a process that fails has shown its error and ended."""


@dataclass(frozen=True, slots=True)
class Job:
    """This process's place among those that were started together, as torchrun's environment variables say it."""

    rank: int
    local_rank: int
    size: int


def job_of_environment() -> Job | None:
    """Return this process's place among several, None when it is alone.

    Raises: UserError when WORLD_SIZE names several processes and another variable of torchrun's is missing.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdigit() or int(size) <= 1:
        return None
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE={size}: {', '.join(missing)} not set; start with mathgrpo train --processes {size}, "
            "with torchrun, or unset WORLD_SIZE"
        )
    return Job(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(size))


@contextmanager
def join_world(device: str, timeout_s: float) -> Iterator[World]:
    """Enter the world of the processes that were started together; `SINGLE` when this one is alone.

    device: "cpu" or "cuda"; each process takes the CUDA device of its local rank as its current one.
    timeout_s: seconds one process waits for another.

    Raises: UserError when there are fewer devices than processes, or contact with another process was lost.
    """
    job = job_of_environment()
    if job is None:
        yield SINGLE
        return
    from torch import distributed

    store = _connect(timeout_s)
    with _one_failure_shown(job, store, timeout_s):
        world, over = _join(job, store, device, timeout_s), threading.Event()
        watcher = threading.Thread(target=_watch, args=(store.clone(), world, over), daemon=True)
        watcher.start()
        try:
            yield world
            world.gather(None)  # nobody leaves while the main process can still fail
        finally:
            over.set()
            watcher.join()
        with suppress(RuntimeError):
            distributed.destroy_process_group()


def require_devices(size: int, device: str) -> None:
    """Raise UserError unless there is a device for each of several processes on this machine."""
    import torch

    if device.startswith("cuda") and size > torch.cuda.device_count():
        raise UserError(
            f"processes={size}: this machine has {torch.cuda.device_count()} CUDA device(s), and each process needs "
            f"its own; use --processes {torch.cuda.device_count()}"
        )


def _connect(timeout_s: float) -> Any:
    """Return the store that all processes know: the launcher's, else the one of rank 0."""
    from torch.distributed.rendezvous import rendezvous

    try:
        return next(rendezvous("env://", timeout=timedelta(seconds=min(timeout_s, CONNECT_S))))[0]
    except RuntimeError as error:
        address = f"MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ['MASTER_PORT']}"
        raise UserError(f"{address}: no contact ({first_line(error)})") from error


def _join(job: Job, store: Any, device: str, timeout_s: float) -> World:
    import torch
    from torch import distributed

    from mathgrpo.distributed.exchange import Joined

    timeout = timedelta(seconds=timeout_s)
    options: dict[str, Any] = {}
    if device.startswith("cuda"):
        require_devices(job.local_rank + 1, device)
        torch.cuda.set_device(job.local_rank)
        options["device_id"] = torch.device("cuda", job.local_rank)
    distributed.init_process_group(
        "nccl" if options else "gloo", store=store, rank=job.rank, world_size=job.size, timeout=timeout, **options
    )
    return Joined(distributed.new_group(backend="gloo", timeout=timeout), store)


@contextmanager
def _one_failure_shown(job: Job, store: Any, timeout_s: float) -> Iterator[None]:
    """Let the process that failed show its error; the launcher ends the others while they wait here.

    Raises: the error; SystemExit where another process has told its own; UserError for a lost contact nobody explains.
    """
    try:
        yield
    except (PeerLost, FollowMain) as error:
        patience = timeout_s if isinstance(error, FollowMain) else LEAVE_S * (2 + job.rank)
        if _somebody_failed(store, patience):
            _leave_after_it()
        raise UserError(
            f"process {job.rank} of {job.size} lost contact with the others ({error}); "
            "continue from the last checkpoint with --resume RUN"
        ) from error
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "exit_code"):  # a clean stop, which all processes take together
            raise
        if job.rank and _somebody_failed(store, LEAVE_S):  # the main process may have met the same error
            _leave_after_it()
        with suppress(RuntimeError):
            store.set(FAILED, str(job.rank))
        if not isinstance(error, (UserError, KeyboardInterrupt)):
            print(f"process {job.rank} of {job.size} failed:", file=sys.stderr)
        raise


def _leave_after_it() -> None:
    """End this process after the one that failed, whose exit code is to be the run's."""
    time.sleep(LEAVE_S)
    raise SystemExit(1) from None


def _somebody_failed(store: Any, patience_s: float) -> bool:
    """Return whether a failure is told of within some seconds. A store that is gone counts as one."""
    until = time.monotonic() + patience_s
    with suppress(RuntimeError):
        while not store.check([FAILED]):
            if time.monotonic() > until:
                return False
            time.sleep(WATCH_S / 10)
    return True


def _watch(store: Any, world: World, over: threading.Event) -> None:
    """End this process when another one has failed or the launcher is gone: it may wait where no exception comes."""
    while not over.wait(WATCH_S):
        if _somebody_failed(store, 0.0) and not over.wait(LEAVE_S):
            with suppress(Exception):
                world.leave_in_order()
            os._exit(1)
