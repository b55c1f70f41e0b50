"""The OpenAI-compatible application: routes, refusals, streams."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mathgrpo.errors import UserError, first_line
from mathgrpo.formats import Format
from mathgrpo.models import Policy
from mathgrpo.serving.pieces import Job, Piece
from mathgrpo.serving.prompts import chat_prompt, in_format, text_prompt
from mathgrpo.serving.replies import Reply, event, new_reply
from mathgrpo.serving.requests import ApiError, ChatRequest, CompletionRequest, Options, read_request
from mathgrpo.serving.worker import Gone, Worker
from mathgrpo.types import Prompt, Sampling

MAX_BODY_BYTES = 4 << 20
Handler = Callable[["Service", Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes serve.

    Attributes:
        max_new_tokens: tokens at most where a request does not say; cut to what the context has room for.
        hosts: names by which a client may address the server (Host header); () allows all. Without this check any web
            page could read a local server's answers by pointing a name of its own at this machine (DNS rebinding).
        api_key: what clients must send as bearer token; "" asks for none.
    """

    policy: Policy
    fmt: Format
    worker: Worker
    max_new_tokens: int
    hosts: tuple[str, ...]
    api_key: str
    started: int


def build_app(service: Service) -> Starlette:
    """Return the application; when it shuts down it stops what is being generated."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.worker.close()

    def route(path: str, handler: Handler, method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                require_admitted(service, request.headers)
                return await handler(service, request)
            except ApiError as error:
                return _refused(error)
            except UserError as error:
                return _refused(ApiError(400, str(error)))

        return Route(path, endpoint, methods=[method])

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail.lower()}"
        return _refused(ApiError(error.status_code, message))

    async def server_error(_: Request, error: Exception) -> Response:
        return _refused(_failure(error))

    return Starlette(
        routes=[
            route("/v1/models", list_models, "GET"),
            route("/v1/models/{model:path}", one_model, "GET"),
            route("/v1/chat/completions", chat_completions, "POST"),
            route("/v1/completions", completions, "POST"),
            route("/health", health, "GET"),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: http_error, Exception: server_error},
    )


def require_admitted(service: Service, headers: Headers) -> None:
    """Return if a request may be answered.

    Raises: ApiError for a host name that is not this server's, or a wrong key.
    """
    host = headers.get("host", "")
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    if service.hosts and name.lower() not in service.hosts:
        raise ApiError(403, f"Host: {name[:80]!r} is not this server; allowed: {', '.join(service.hosts)}")
    given = headers.get("authorization", "").removeprefix("Bearer ").encode()
    if service.api_key and not hmac.compare_digest(given, service.api_key.encode()):
        raise ApiError(401, "Authorization: not the server's key", code="invalid_api_key")


async def list_models(service: Service, _: Request) -> Response:
    """The one model there is."""
    return JSONResponse({"object": "list", "data": [_model_card(service)]})


async def one_model(service: Service, request: Request) -> Response:
    """The model by its name."""
    _require_model(service, request.path_params["model"])
    return JSONResponse(_model_card(service))


async def health(service: Service, _: Request) -> Response:
    """How many requests are being answered or wait."""
    return JSONResponse({"status": "ok", "requests": service.worker.jobs})


async def chat_completions(service: Service, request: Request) -> Response:
    """Completions of a conversation."""
    asked = read_request(ChatRequest, await _body(request))
    _require_model(service, asked.model)
    prompt = chat_prompt(service.policy, asked.messages, service.fmt)
    job = _job(service, prompt, asked, asked.limit)
    fmt = service.fmt if in_format(asked.messages) else None
    return await _reply(service, request, asked, job, chat=True, fmt=fmt)


async def completions(service: Service, request: Request) -> Response:
    """Completions of a text as it is."""
    asked = read_request(CompletionRequest, await _body(request))
    _require_model(service, asked.model)
    job = _job(service, text_prompt(service.policy, asked.prompt), asked, asked.limit)
    return await _reply(service, request, asked, job, chat=False, fmt=None)


def _job(service: Service, prompt: Prompt, asked: Options, limit: int | None) -> Job:
    """Return what to generate. Defaults are OpenAI's: temperature 1, one completion, a seed drawn for each request."""
    room = service.policy.max_context - len(prompt.ids)
    if room < 1 or (limit or 0) > room:
        remedy = f"use at most {room}" if room > 0 else "shorten it"
        sizes = f"the prompt has {len(prompt.ids)} tokens, the model's context {service.policy.max_context}"
        param = "max_tokens" if room > 0 else "messages"
        raise ApiError(400, f"{param}: {sizes}; {remedy}", param=param, code="context_length_exceeded")
    sampling = Sampling(
        max_new_tokens=limit or min(room, service.max_new_tokens),
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k or 0,
        min_p=asked.min_p or 0.0,
        seed=secrets.randbelow(2**31) if asked.seed is None else asked.seed,
    )
    return Job(prompt, sampling, asked.n or 1, asked.stops)


async def _reply(
    service: Service, request: Request, asked: Options, job: Job, *, chat: bool, fmt: Format | None
) -> Response:
    name = service.policy.name
    reply = new_reply(name, len(job.prompt.ids), chat=chat, fmt=fmt, fingerprint=f"mathgrpo-{_version()}")
    service.worker.require_room()
    pieces = service.worker.run(job, _gone(request))
    if not asked.stream:
        found = [piece async for piece in pieces]
        if sum(piece.finish is not None for piece in found) < job.samples:  # the client is gone, or the server stops
            raise ApiError(503, "stopped before the end")
        return JSONResponse(reply.whole(found))
    usage = asked.stream_options is not None and asked.stream_options.include_usage
    return StreamingResponse(
        _events(reply, pieces, job.samples, usage=usage), media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )  # fmt: skip


async def _events(reply: Reply, pieces: AsyncIterator[Piece], samples: int, *, usage: bool) -> AsyncIterator[str]:
    """Yield the events of a stream; an error in the middle is one of them, because the status is sent already."""
    ends: dict[int, Piece] = {}
    for chunk in reply.first_chunks(samples):
        yield event(chunk)
    try:
        async for piece in pieces:
            ends[piece.sample] = piece
            for chunk in reply.chunks(piece):
                yield event(chunk)
    except Exception as error:
        yield event((error if isinstance(error, ApiError) else _failure(error)).body())
        return
    if usage:
        yield event(reply.usage_chunk(ends))
    yield event("[DONE]")


def _gone(request: Request) -> Gone:
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body has more than {MAX_BODY_BYTES:,} bytes; shorten it")
    return bytes(body)


def _require_model(service: Service, name: str | None) -> None:
    if name is not None and name != service.policy.name:
        raise ApiError(
            404, f"model: {name[:80]!r} is not served here; there is {service.policy.name!r}", param="model",
            code="model_not_found",
        )  # fmt: skip


def _model_card(service: Service) -> dict[str, Any]:
    return {"id": service.policy.name, "object": "model", "created": service.started, "owned_by": "mathgrpo",
            "max_model_len": service.policy.max_context}  # fmt: skip


def _refused(error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status)


def _failure(error: Exception) -> ApiError:
    return ApiError(500, f"generation failed: {type(error).__name__}: {first_line(error)}")


def _version() -> str:
    try:
        return metadata.version("mathgrpo")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"
