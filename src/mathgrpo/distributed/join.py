"""Joining the other processes of a run, and leaving them so that nobody waits for the dead."""

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

from mathgrpo.distributed.follow import FollowMain, PeerLost
from mathgrpo.distributed.world import SINGLE, ProcessWorld, World
from mathgrpo.errors import UserError, first_line

FAILURES, FAILED_RANK = "failures", "failed_rank"
"""Keys of the store: how many processes have failed, and which one was the first."""
CONNECT_S = 300.0
"""Seconds in which the store must be there: the process that keeps it may have to import PyTorch first."""
WATCH_S = 0.25
"""Seconds between two looks at whether another process has failed."""
LEAVE_S = 2.0
"""Seconds in which a process that is not waiting for another has left by itself."""
GRACE_S = 5.0
"""Seconds in which a lost process's own error, or its launcher's word about its death, is waited for."""


@dataclass(frozen=True, slots=True)
class Job:
    """This process's place among those that were started together, as torchrun's environment variables say it.

    Attributes:
        address, port: where the store is that all of them know.
        has_store: whether the launcher keeps that store; else rank 0 does.
        attempt: how often the launcher has started the processes again.
    """

    rank: int
    local_rank: int
    size: int
    address: str
    port: int
    has_store: bool
    attempt: int

    @property
    def prefix(self) -> str:
        """What sets this attempt's keys in the store apart from an earlier one's."""
        return f"mathgrpo/{self.attempt}/"


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
    return Job(
        rank=int(os.environ["RANK"]), local_rank=int(os.environ["LOCAL_RANK"]), size=int(size),
        address=os.environ["MASTER_ADDR"], port=int(os.environ["MASTER_PORT"]),
        has_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )  # fmt: skip


@contextmanager
def join_world(device: str, timeout_s: float) -> Iterator[World]:
    """Enter the world of the processes that were started together; `SINGLE` when this one is alone.

    device: "cpu" or "cuda"; each process takes the CUDA device of its local rank as its current one.
    timeout_s: seconds one process waits for another.

    When one process fails, its own error is the one that is shown; the others end silently with exit code 1.
    Raises: UserError when there are fewer devices than processes, or contact with another process was lost.
    """
    job = job_of_environment()
    if job is None:
        yield SINGLE
        return
    store = _connect(job, timeout_s, hosts=job.rank == 0 and not job.has_store)
    with _failures_told(job, store, timeout_s):
        world = _join(job, store, device, timeout_s)
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(job, world, over), daemon=True)
        watcher.start()
        try:
            yield world
            world.gather(None)  # nobody leaves while the main process can still fail
        finally:
            over.set()
            watcher.join()
            # Waiting for the others here could take until the timeout, and the process is about to end.
            if sys.exc_info()[0] is None:
                _leave()


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


def _connect(job: Job, timeout_s: float, *, hosts: bool = False) -> Any:
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore(
            job.address, job.port, None, hosts, timeout=timedelta(seconds=min(timeout_s, CONNECT_S)),
            wait_for_workers=False,
        )  # fmt: skip
    except RuntimeError as error:
        address = f"MASTER_ADDR={job.address}, MASTER_PORT={job.port}"
        raise UserError(f"{address}: no contact ({first_line(error)})") from error
    return PrefixStore(job.prefix, store)


def _join(job: Job, store: Any, device: str, timeout_s: float) -> ProcessWorld:
    import torch
    from torch import distributed
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    timeout = timedelta(seconds=timeout_s)
    options: dict[str, Any] = {}
    if device.startswith("cuda"):
        require_devices(job.local_rank + 1, device)
        torch.cuda.set_device(job.local_rank)
        options["device_id"] = torch.device("cuda", job.local_rank)
    distributed.init_process_group(
        "nccl" if options else "gloo", store=PrefixStore("group/", store), rank=job.rank, world_size=job.size,
        timeout=timeout, **options,
    )  # fmt: skip
    control = distributed.new_group(backend="gloo", timeout=timeout)
    return ProcessWorld(job.rank, job.size, control, store)


def _leave() -> None:
    from torch import distributed

    with suppress(RuntimeError):
        distributed.destroy_process_group()


@contextmanager
def _failures_told(job: Job, store: Any, timeout_s: float) -> Iterator[None]:
    """Let the first process that fails show its error, and end the others without a word.

    Raises: the error, in the process that was first; UserError for a lost contact that nobody explains.
    """
    try:
        yield
    except (PeerLost, FollowMain) as error:
        patience = timeout_s if isinstance(error, FollowMain) else GRACE_S
        if _somebody_failed(store, patience) or not claim_failure(store, job.rank):
            raise SystemExit(1) from None
        raise UserError(
            f"process {job.rank} of {job.size} lost contact with the others ({error}); "
            "continue from the last checkpoint with --resume RUN"
        ) from error
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "exit_code"):  # a clean stop, which all processes take together
            raise
        if not claim_failure(store, job.rank):
            raise SystemExit(1) from None
        if not isinstance(error, (UserError, KeyboardInterrupt)):
            print(f"process {job.rank} of {job.size} failed:", file=sys.stderr)
        raise


def claim_failure(store: Any, rank: int) -> bool:
    """Return whether this failure is the first: then it is the one to be shown, and the others learn of it."""
    try:
        if store.add(FAILURES, 1) > 1:
            return False
        store.set(FAILED_RANK, str(rank))
    except RuntimeError:  # the store is gone, and with it whoever could have shown another one
        return True
    return True


def _somebody_failed(store: Any, patience_s: float) -> bool:
    """Return whether a failure is told of within some seconds. A store that is gone counts as one."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            if store.check([FAILED_RANK]):
                return True
        except RuntimeError:
            return True
        time.sleep(WATCH_S / 5)
    return False


def _watch(job: Job, world: ProcessWorld, over: threading.Event) -> None:
    """End this process when another one has failed: it may be waiting where no exception can reach it.

    The store's connection is the thread's own. A store that is gone means that the launcher, or rank 0, is.
    """
    try:
        store = _connect(job, CONNECT_S)
    except UserError:
        return
    while not over.wait(WATCH_S):
        if not _somebody_failed(store, WATCH_S / 10):
            continue
        # This process may be on its way out by itself, with its own error or with one that all of them met.
        if over.wait(LEAVE_S):
            return
        with suppress(Exception):
            if store.get(FAILED_RANK) == str(job.rank).encode():
                return
        with suppress(Exception):
            world.leave_in_order()
        sys.stdout.flush()
        os._exit(1)
