"""The one thread that draws: requests come as rows of one scheduler, and go when nobody listens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mathgrpo.rollout.scheduler import Drawn
from mathgrpo.serving.openai_shapes import ApiError
from mathgrpo.serving.stream import CompletionText, Streamer
from mathgrpo.types import Prompt, Sampling

MAX_ROWS = 64
"""Completions decoded together; others wait in the order they came."""
STEPS = 8
"""Tokens of a completion drawn at once, at most: so long waits a request that comes, and a client that leaves."""
MAX_REQUESTS = 256
"""Requests under way; one more is refused at once rather than kept for minutes."""
Queue = asyncio.Queue[tuple[int, list[int]] | Exception]
"""(completion, its next tokens) of a request, or why there are none."""


class Worker:
    """Draws for an event loop while there are requests; the rows are touched by its own thread alone."""

    def __init__(self, streamer: Streamer) -> None:
        self._streamer, self._rows, self.jobs = streamer, streamer.rows(MAX_ROWS), 0
        self._thread = ThreadPoolExecutor(1, "generation")
        self._changes: list[Callable[[], None]] = []
        self._listeners: dict[int, tuple[Queue, int]] = {}
        self._drawing: asyncio.Task[None] | None = None

    async def pieces(
        self, prompt: Prompt, sampling: Sampling, texts: Sequence[CompletionText]
    ) -> AsyncGenerator[tuple[int, str], None]:
        """Yield (completion, its next text) until all texts are finished; leaving the iteration stops what is drawn.

        Raises: ApiError when there are too many requests; whatever drawing raises.
        """
        if self.jobs >= MAX_REQUESTS:
            raise ApiError(503, f"{self.jobs} requests are under way; try again later", code="overloaded")
        found, tickets = Queue(), list[int]()

        def submit() -> None:
            tickets.extend(self._rows.submit(prompt, sampling, range(len(texts))))
            self._listeners.update({ticket: (found, i) for i, ticket in enumerate(tickets)})

        def cancel() -> None:
            for ticket in tickets:
                if self._listeners.pop(ticket, None):
                    self._rows.cancel(ticket)

        self.jobs += 1
        self._change(submit)
        try:
            while not all(text.finish for text in texts):
                if isinstance(drawn := await found.get(), Exception):
                    raise drawn
                index, ids = drawn
                for token in ids:
                    if not texts[index].finish and ((piece := texts[index].push(token)) or texts[index].finish):
                        yield index, piece
        finally:
            self.jobs -= 1
            self._change(cancel)

    def _change(self, change: Callable[[], None]) -> None:
        """Have the rows changed before the next step."""
        self._changes.append(change)
        if self._drawing is None or self._drawing.done():
            self._drawing = asyncio.get_running_loop().create_task(self._draw())

    async def _draw(self) -> None:
        while self._changes or self._rows.busy:
            changes, self._changes = self._changes, []
            try:
                for drawn in await asyncio.get_running_loop().run_in_executor(self._thread, self._step, changes):
                    queue, sample = self._listeners[drawn.ticket]
                    queue.put_nowait((sample, drawn.ids))
            except Exception as error:  # what was under way is lost, what comes is not
                for queue in {queue for queue, _ in self._listeners.values()}:
                    queue.put_nowait(error)
                self._listeners, self._rows = {}, self._streamer.rows(MAX_ROWS)

    def _step(self, changes: list[Callable[[], None]]) -> list[Drawn]:
        for change in changes:
            change()
        return self._rows.step(STEPS)
