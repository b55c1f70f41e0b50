"""Starting the processes of a run on this machine, and seeing all of them to their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any

from mathgrpo.distributed.join import FAILED_RANK, Job, claim_failure, require_devices

ADDRESS = "127.0.0.1"
KILL_AFTER_S = 15.0
"""Seconds that the other processes have to end by themselves once one has failed."""
POLL_S = 0.1
STOPS = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a run that was stopped cleanly."""


def launch(arguments: Sequence[str], processes: int, device: str) -> int:
    """Run `mathgrpo ARGUMENTS` in several processes of this machine, and return the exit code of the whole.

    device: "cpu" or "cuda". On a CPU each process gets its part of the cores unless OMP_NUM_THREADS is set.
    Ctrl-C and SIGTERM are handed on to every process; when one fails or dies, all end.
    Raises: UserError when there are fewer CUDA devices than processes.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    require_devices(processes, device)
    # The store lives here, so that it outlives every process, and its port is one that is free.
    server = TCPStore(ADDRESS, 0, None, True, timeout=timedelta(seconds=60), wait_for_workers=False)
    places = [Job(rank, rank, processes, ADDRESS, server.port, True, 0) for rank in range(processes)]
    store = PrefixStore(places[0].prefix, server)
    workers: list[subprocess.Popen[bytes]] = []
    with _signals_handed_on(workers) as handed_on:
        try:
            for place in places:
                workers.append(_start(arguments, place, device))
            return _seen_to_the_end(workers, store, handed_on)
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()


def _start(arguments: Sequence[str], place: Job, device: str) -> subprocess.Popen[bytes]:
    environment = dict(os.environ) | {
        "RANK": str(place.rank), "LOCAL_RANK": str(place.local_rank), "WORLD_SIZE": str(place.size),
        "MASTER_ADDR": place.address, "MASTER_PORT": str(place.port),
        "TORCHELASTIC_USE_AGENT_STORE": str(place.has_store), "TORCHELASTIC_RESTART_COUNT": str(place.attempt),
    }  # fmt: skip
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container's own name often leads nowhere
    if device == "cpu":
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // place.size)))
    # A session of its own: Ctrl-C in the terminal comes here, and is handed on once.
    return subprocess.Popen(
        [sys.executable, "-m", "mathgrpo", *arguments], env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=None if place.rank == 0 else subprocess.DEVNULL,
    )  # fmt: skip


def _cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seen_to_the_end(workers: Sequence[subprocess.Popen[bytes]], store: Any, handed_on: Sequence[int]) -> int:
    """Wait for all processes; end the others when one has failed. Return the exit code of the whole."""
    failed_at = None
    while any(worker.poll() is None for worker in workers):
        time.sleep(POLL_S)
        codes = [worker.poll() for worker in workers]
        if failed_at is None and any(code not in (None, 0, *STOPS) for code in codes):
            failed_at = time.monotonic()
            _explain_deaths(codes, store, handed_on)
        if failed_at is not None and time.monotonic() > failed_at + KILL_AFTER_S:
            for worker in workers:
                worker.kill()
    ends = [worker.wait() for worker in workers]
    first = int(store.get(FAILED_RANK)) if store.check([FAILED_RANK]) else 0
    bad = [code for code in (ends[first], *ends) if code != 0]
    return 0 if not bad else bad[0] if bad[0] > 0 else 128 - bad[0]


def _explain_deaths(codes: Sequence[int | None], store: Any, handed_on: Sequence[int]) -> None:
    """Say what ended a process that could not say it itself, and let the others know."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0 and claim_failure(store, rank) and -code not in handed_on:
            memory = "; the system does so when memory runs out" if code == -signal.SIGKILL else ""
            print(
                f"error: process {rank} of {len(codes)} was ended by {signal.Signals(-code).name}{memory}; "
                "continue from the last checkpoint with --resume RUN",
                file=sys.stderr,
            )


@contextmanager
def _signals_handed_on(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Send Ctrl-C and SIGTERM on to every process: the first asks for a clean stop, the second ends at once.

    Yields the signals that have come, which grow.
    """
    handed_on: list[int] = []

    def hand_on(signum: int, frame: FrameType | None) -> None:
        handed_on.append(signum)
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.send_signal(signum)

    before = {signum: signal.signal(signum, hand_on) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield handed_on
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
