"""The one thread that generates: requests wait for it in the order they came, and are dropped when nobody listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from mathgrpo.serving.pieces import Job, Piece, generate_pieces
from mathgrpo.serving.requests import ApiError
from mathgrpo.serving.stream import Streamer

MAX_WAITING = 64
"""Requests that may wait; one more is refused at once rather than kept for minutes."""

Gone = Callable[[], Awaitable[None]]
"""Returns once the client has closed its connection."""


class Worker:
    """Generates for an event loop, one job at a time."""

    def __init__(self, streamer: Streamer) -> None:
        self._streamer = streamer
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generation")
        self._closed = threading.Event()
        self.jobs = 0

    def close(self) -> None:
        """Stop what runs at its next token, and drop what waits."""
        self._closed.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def require_room(self) -> None:
        """Return when another request may wait.

        Raises: ApiError with status 503 otherwise.
        """
        if self.jobs > MAX_WAITING:
            raise ApiError(503, f"{self.jobs} requests are waiting already; try again later", code="overloaded")

    async def run(self, job: Job, gone: Gone) -> AsyncIterator[Piece]:
        """Yield the pieces of a job; they end early when the client is gone or the iteration is left.

        Raises: whatever the generation raises.
        """
        loop, cancelled = asyncio.get_running_loop(), threading.Event()
        pieces: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()

        def hand_over(item: Piece | BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped meanwhile
                loop.call_soon_threadsafe(pieces.put_nowait, item)

        def work() -> None:
            try:
                for piece in generate_pieces(self._streamer, job, lambda: cancelled.is_set() or self._closed.is_set()):
                    hand_over(piece)
            except BaseException as error:
                hand_over(error)
            else:
                hand_over(None)

        async def listen() -> None:
            await gone()
            cancelled.set()
            pieces.put_nowait(None)

        self.jobs += 1
        future, listener = self._executor.submit(work), asyncio.create_task(listen())
        future.add_done_callback(lambda _: hand_over(None))
        try:
            while (item := await pieces.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.jobs -= 1
            cancelled.set()
            listener.cancel()
            future.cancel()
