"""Joining the processes that torchrun, or `launch`, has started.

Both end all processes as soon as one has ended with an error. So whoever has nothing of its own to say waits a moment:
it is ended meanwhile, the error that is shown is the first one, and its exit code is the run's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mathgrpo.distributed.world import SINGLE, FollowMain, PeerLost, World
from mathgrpo.errors import UserError, first_line

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
    """Return when there is a device for each of several processes on this machine.

    Raises: UserError otherwise.
    """
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

    timeout = timedelta(seconds=timeout_s)
    options: dict[str, Any] = {}
    if device.startswith("cuda"):
        require_devices(job.local_rank + 1, device)
        torch.cuda.set_device(job.local_rank)
        options["device_id"] = torch.device("cuda", job.local_rank)
    distributed.init_process_group(
        "nccl" if options else "gloo", store=store, rank=job.rank, world_size=job.size, timeout=timeout, **options
    )
    return World(distributed.new_group(backend="gloo", timeout=timeout), store)


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
