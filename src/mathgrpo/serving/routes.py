"""The OpenAI-compatible application: the thread that draws, routes, refusals."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mathgrpo.errors import UserError
from mathgrpo.formats import Format
from mathgrpo.formats.conversation import conversation_prompt, text_prompt
from mathgrpo.formats.template_arguments import require_arguments
from mathgrpo.models import Policy
from mathgrpo.rollout.scheduler import Drawn
from mathgrpo.serving import openai_shapes as shapes
from mathgrpo.serving.openai_shapes import ApiError, Options
from mathgrpo.serving.stream import CompletionText, Streamer
from mathgrpo.types import Prompt, Sampling

MAX_BODY_BYTES = 4 << 20
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_ROWS = 64
"""Completions decoded together; others wait in the order they came."""
STEPS = 8
"""Tokens of a completion drawn at once, at most: so long waits a request that comes, and a client that leaves."""
MAX_REQUESTS = 256
"""Requests under way; one more is refused at once rather than kept for minutes."""
Queue = asyncio.Queue[Drawn | Exception]
"""What the completions of a request are given, or why they are given no more."""


class Worker:
    """Draws for an event loop while there are requests; the rows are touched by its own thread alone."""

    def __init__(self, streamer: Streamer) -> None:
        self._streamer, self._rows, self.jobs = streamer, streamer.rows(MAX_ROWS), 0
        self._thread = ThreadPoolExecutor(1, "generation")
        self._changes: list[Callable[[], None]] = []
        self._listeners: dict[int, Queue] = {}
        self._drawing: asyncio.Task[None] | None = None

    async def pieces(self, prompt: Prompt, sampling: Sampling, texts: list[CompletionText]) -> shapes.Pieces:
        """Yield (completion, its next text) until all texts are finished; leaving the iteration stops what is drawn.

        Raises: ApiError when there are too many requests; whatever drawing raises.
        """
        if self.jobs >= MAX_REQUESTS:
            raise ApiError(503, f"{self.jobs} requests are under way; try again later", code="overloaded")
        found, tickets = Queue(), list[int]()

        def submit() -> None:
            tickets.extend(self._rows.submit(prompt, sampling, range(len(texts))))
            self._listeners.update(dict.fromkeys(tickets, found))

        def cancel() -> None:
            for ticket in [each for each in tickets if self._listeners.get(each) is found]:
                del self._listeners[ticket]
                self._rows.cancel(ticket)

        self.jobs += 1
        self._change(submit)
        try:
            while not all(text.finish for text in texts):
                if isinstance(drawn := await found.get(), Exception):
                    raise drawn
                text = texts[sample := tickets.index(drawn.ticket)]
                if not text.finish and ((piece := text.push(drawn.ids)) or text.finish):
                    yield sample, piece
        finally:
            self.jobs -= 1
            self._change(cancel)

    def _change(self, change: Callable[[], None]) -> None:
        """Have the rows changed before the next step: a turn of the thread for each would cost more than the step."""
        self._changes.append(change)
        if self._drawing is None or self._drawing.done():
            self._drawing = asyncio.create_task(self._draw())

    async def _draw(self) -> None:
        while self._changes or self._rows.busy:
            changes, self._changes = self._changes, []
            try:
                for drawn in await asyncio.get_running_loop().run_in_executor(self._thread, self._step, changes):
                    self._listeners[drawn.ticket].put_nowait(drawn)
            except Exception as error:  # what was under way is lost, what comes is not
                for queue in set(self._listeners.values()):
                    queue.put_nowait(error)
                self._listeners, self._rows = {}, self._streamer.rows(MAX_ROWS)

    def _step(self, changes: list[Callable[[], None]]) -> list[Drawn]:
        for change in changes:
            change()
        return self._rows.step(STEPS)


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes serve.

    max_new_tokens: where a request does not say. local: clients must call this server by a name of this machine, or any
    web page could read its answers by pointing a name of its own here (DNS rebinding). api_key: "" asks for none.
    """

    policy: Policy
    fmt: Format
    worker: Worker
    max_new_tokens: int
    local: bool
    api_key: str
    started: float = field(default_factory=time.time)

    async def models(self, request: Request) -> Response:
        """The one model there is, in a list or by its name."""
        card = {"id": self.policy.name, "object": "model", "created": int(self.started), "owned_by": "mathgrpo",
                "max_model_len": self.policy.max_context}  # fmt: skip
        self._require_model(request.path_params.get("model"))
        return JSONResponse(card if request.path_params else {"object": "list", "data": [card]})

    async def health(self, _: Request) -> Response:
        """How many requests are under way."""
        return JSONResponse({"status": "ok", "requests": self.worker.jobs})

    async def chat_completions(self, request: Request) -> Response:
        """Completions of a conversation; one without a system message is put as the format puts questions."""
        asked = shapes.read_request(shapes.ChatRequest, await _body(request))
        turns = [turn.model_dump() for turn in asked.messages]
        fmt = None if any(turn["role"] == "system" for turn in turns) else self.fmt
        asked.max_tokens = asked.max_completion_tokens or asked.max_tokens
        tokenizer, arguments = self.policy.tokenizer, {**self.fmt.chat_template_kwargs, **asked.chat_template_kwargs}
        require_arguments(tokenizer, asked.chat_template_kwargs, "chat_template_kwargs")
        return await self._reply(request, asked, conversation_prompt(tokenizer, turns, fmt, arguments), fmt)

    async def completions(self, request: Request) -> Response:
        """Completions of a text as it is."""
        asked = shapes.read_request(shapes.CompletionRequest, await _body(request))
        prompt = text_prompt(self.policy.tokenizer, asked.prompt)
        return await self._reply(request, asked, prompt)

    async def _reply(self, request: Request, asked: Options, prompt: Prompt, fmt: Format | None = None) -> Response:
        self._require_model(asked.model)
        policy, sampling, whole = self.policy, self._sampling(asked, prompt), not asked.stream
        texts = [CompletionText(policy, sampling.max_new_tokens, asked.stop, whole=whole) for _ in range(asked.n)]
        reply = shapes.Reply(
            policy.name, len(prompt.ids), texts, isinstance(asked, shapes.ChatRequest), fmt, prompt.opened
        )
        pieces = self.worker.pieces(prompt, sampling, texts)
        if asked.stream:
            events = reply.events(pieces, usage=bool(asked.stream_options.get("include_usage")))
            headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        # The body is read: the next thing that a client can be heard to do is to leave.
        drawing, leaving = asyncio.ensure_future(reply.whole(pieces)), asyncio.ensure_future(request.receive())
        await asyncio.wait((drawing, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        return Response() if drawing.cancel() else JSONResponse(drawing.result())

    def _sampling(self, asked: Options, prompt: Prompt) -> Sampling:
        """Return how to draw; OpenAI's defaults, a seed drawn for each request among them."""
        room = self.policy.max_context - len(prompt.ids)
        if room < 1 or (asked.max_tokens or 0) > room:
            param, remedy = ("max_tokens", f"use at most {room}") if room > 0 else ("messages", "shorten it")
            sizes = f"the prompt has {len(prompt.ids)} tokens, the model's context {self.policy.max_context}"
            raise ApiError(400, f"{param}: {sizes}; {remedy}", param, "context_length_exceeded")
        seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        most = asked.max_tokens or min(room, self.max_new_tokens)
        return Sampling(most, asked.temperature, asked.top_p, asked.top_k, asked.min_p, seed)

    def _require_model(self, name: str | None) -> None:
        if name not in (None, self.policy.name):
            message = f"model: {str(name)[:80]!r} is not served here; there is {self.policy.name!r}"
            raise ApiError(404, message, "model", "model_not_found")


def build_app(service: Service) -> Starlette:
    """Return the application."""
    posts = {"/v1/chat/completions": service.chat_completions, "/v1/completions": service.completions}
    gets = {"/v1/models": service.models, "/v1/models/{model:path}": service.models, "/health": service.health}

    async def answer(request: Request) -> Response:
        name = re.sub(r":\d*$", "", request.headers.get("host", ""))
        if service.local and name.lower() not in LOCAL_NAMES:
            raise ApiError(403, f"Host: {name[:80]!r} is not this server; allowed: {', '.join(LOCAL_NAMES)}")
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if service.api_key and not hmac.compare_digest(given, service.api_key.encode()):
            raise ApiError(401, "Authorization: not the server's key", code="invalid_api_key")
        return await (posts if request.method == "POST" else gets)[request.scope["route"].path](request)

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail.lower()}")
        told = shapes.api_error(error)
        return JSONResponse(told.body, status_code=told.status)

    return Starlette(
        routes=[Route(path, answer, methods=[m]) for m, paths in (("POST", posts), ("GET", gets)) for path in paths],
        exception_handlers=dict.fromkeys((HTTPException, ApiError, UserError, Exception), refused),
    )


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body has more than {MAX_BODY_BYTES:,} bytes; shorten it")
    return bytes(body)
