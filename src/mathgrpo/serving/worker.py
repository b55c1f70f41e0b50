"""The one thread that draws: requests come as rows of one scheduler, and go when nobody listens to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from queue import SimpleQueue

from mathgrpo.serving.requests import ApiError
from mathgrpo.serving.stream import Streamer
from mathgrpo.types import Prompt, Sampling

MAX_ROWS = 64
"""Completions decoded together; others wait in the order they came."""
STEPS = 8
"""Tokens of a completion drawn at once, at most: so long waits a request that comes, and a client that leaves."""
MAX_REQUESTS = 256
"""Requests under way; one more is refused at once rather than kept for minutes."""

Tokens = dict[int, list[int]]
"""Sample of a request -> the tokens drawn for it since the last time."""
Listener = Callable[[Tokens | Exception], None]


class Worker:
    """Draws for an event loop; the rows are touched by its own thread alone."""

    def __init__(self, streamer: Streamer) -> None:
        self._streamer, self._rows, self.jobs, self._closed = streamer, streamer.rows(MAX_ROWS), 0, False
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._listeners: dict[int, tuple[Listener, int]] = {}
        threading.Thread(target=self._work, name="generation", daemon=True).start()

    def close(self) -> None:
        """Stop what runs within a few tokens; whoever listens gets an error."""
        self._closed = True
        self._asked.put(lambda: None)  # wakes the thread

    async def drawn(self, prompt: Prompt, sampling: Sampling, samples: int) -> AsyncGenerator[Tokens, None]:
        """Yield the tokens of a request's completions as they are drawn, until the iteration is left.

        Raises: ApiError when there are too many requests or the server stops; whatever drawing raises.
        """
        if self.jobs >= MAX_REQUESTS:
            raise ApiError(503, f"{self.jobs} requests are under way; try again later", code="overloaded")
        loop, found = asyncio.get_running_loop(), asyncio.Queue[Tokens | Exception]()
        tickets: list[int] = []

        def hand_over(tokens: Tokens | Exception) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped meanwhile
                loop.call_soon_threadsafe(found.put_nowait, tokens)

        def submit() -> None:
            tickets.extend(self._rows.submit(prompt, sampling, range(samples)))
            self._listeners.update({ticket: (hand_over, i) for i, ticket in enumerate(tickets)})

        def cancel() -> None:
            for ticket in tickets:
                if self._listeners.pop(ticket, None):
                    self._rows.cancel(ticket)

        self.jobs += 1
        self._asked.put(submit)
        try:
            while not isinstance(tokens := await found.get(), Exception):
                yield tokens
            raise tokens
        finally:
            self.jobs -= 1
            self._asked.put(cancel)

    def _work(self) -> None:
        while True:
            while not self._asked.empty() or not (self._rows.busy or self._closed):
                self._asked.get()()
            if self._closed:
                return self._tell_all(ApiError(503, "stopped before the end"))
            try:
                step = self._rows.step(STEPS)
            except Exception as error:  # what was under way is lost, what comes is not
                self._rows = self._streamer.rows(MAX_ROWS)
                self._tell_all(error)
                continue
            parts: dict[Listener, Tokens] = {}
            for drawn in step:
                hand_over, sample = self._listeners[drawn.ticket]
                parts.setdefault(hand_over, {})[sample] = drawn.ids
            for hand_over, tokens in parts.items():
                hand_over(tokens)

    def _tell_all(self, error: Exception) -> None:
        for hand_over in {hand_over for hand_over, _ in self._listeners.values()}:
            hand_over(error)
        self._listeners.clear()
