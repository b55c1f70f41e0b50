"""The JSON shapes of the OpenAI API: requests read, every complaint naming a parameter; replies, whole or streamed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mathgrpo.errors import UserError, first_line
from mathgrpo.formats import Format
from mathgrpo.serving.stream import CompletionText

R = TypeVar("R", bound="Options")
Role = Literal["system", "developer", "user", "assistant"]
Pieces = AsyncGenerator[tuple[int, str], None]
"""(completion, its next text) of a request, until all are finished."""
IDLE = ("user", "metadata", "store", "service_tier", "reasoning_effort", "continue_final_message")
"""Parameters that change nothing here."""
UNSERVED = ("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "response_format")
"""Parameters that are taken only at the value that asks for nothing."""


class ApiError(Exception):
    """A request that is refused: HTTP status, the parameter that is wrong, a short name of the error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def api_error(error: Exception) -> ApiError:
    """Return what a client is told of an error: what it did wrong, or that drawing failed."""
    if isinstance(error, ApiError):
        return error
    failure = f"generation failed: {type(error).__name__}: {first_line(error)}"
    return ApiError(400, str(error)) if isinstance(error, UserError) else ApiError(500, failure)


def _readable(content: object) -> object:
    """Return content in parts joined. JSON can hold half of a character, which no tokenizer reads."""
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ValueError("only parts of type text are understood")
        content = "".join(str(part.get("text", "")) for part in content)
    if isinstance(content, str) and any("\ud800" <= char <= "\udfff" for char in content):
        raise ValueError("holds half of a character (a lone surrogate)")
    return content


def _stops(stop: str | list[str]) -> list[str]:
    texts = [stop] if isinstance(stop, str) else stop
    if len(texts) > 4 or not all(texts):
        raise ValueError("at most 4 texts, none of them empty")
    return texts


def _to_be_answered(turns: list[Message]) -> list[Message]:
    if turns[-1].role == "system" or all(turn.role != "user" for turn in turns):
        raise ValueError(f"the last one is from the {turns[-1].role}; end with one of role user, or with the answer's "
                         "beginning")  # fmt: skip
    return turns


class Message(BaseModel):
    """One turn of a conversation."""

    role: Annotated[Role, AfterValidator(lambda role: role.replace("developer", "system"))]
    content: Annotated[str, BeforeValidator(_readable)]


class Options(BaseModel):
    """What both kinds of request have in common. Numbers are not coerced from text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[str | list[str], AfterValidator(_stops)] = []
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: dict[str, Any] = {}


class ChatRequest(Options):
    """A body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1), AfterValidator(_to_be_answered)]
    max_completion_tokens: int | None = Field(None, ge=1)
    chat_template_kwargs: dict[str, Any] = {}


class CompletionRequest(Options):
    """A body of POST /v1/completions: the prompt is the text itself, without format or chat template."""

    prompt: Annotated[str, BeforeValidator(_readable)] = Field(min_length=1)


def read_request(kind: type[R], body: bytes) -> R:
    """Return the request in a body; null counts as not given.

    Raises: ApiError with status 400 and one line that names the first wrong parameter.
    """
    try:
        data = json.loads(body)
        if not isinstance(data, dict):
            raise ApiError(400, "the body is not a JSON object")
        given = {name: value for name, value in data.items() if value is not None and name not in IDLE}
        for name in set(given) & set(UNSERVED):
            if (value := given.pop(name)) and value != {"type": "text"}:
                raise ApiError(400, f"{name}: not served here; leave it out", name)
        return kind.model_validate(given)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON ({error})") from None
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("str", "list[", "function-")))
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Field required") or "missing"
    if first["type"] == "extra_forbidden":
        reason = f"no such parameter here; there are: {', '.join(kind.model_fields)}"
    raise ApiError(400, f"{name}: {reason[0].lower()}{reason[1:]}", name)


@dataclass(slots=True)
class Reply:
    """One reply.

    fmt: the format to read reasoning and answer with; None when the request has its own instructions. opened: what the
    prompt has of the answer already, see `Prompt`.
    """

    model: str
    prompt_tokens: int
    texts: Sequence[CompletionText]
    chat: bool
    fmt: Format | None
    opened: str = ""
    created_ns: int = field(default_factory=time.time_ns)

    async def whole(self, pieces: Pieces) -> dict[str, Any]:
        """Return the reply in one object. A message in the format also has its "reasoning" and "answer"."""
        async for _ in pieces:
            pass
        contents = [self._message(text.text) if self.chat else {"text": text.text} for text in self.texts]
        return self._body(dict(enumerate(contents)), usage=True)

    async def events(self, pieces: Pieces, *, usage: bool) -> AsyncGenerator[str, None]:
        """Yield server-sent events: of a chat the roles, the texts, the count of tokens if it is wanted, the end.

        An error in the middle is an event too, because the status is sent already.
        """
        try:
            for i in range(len(self.texts) if self.chat else 0):
                yield _event(self._body({i: {"delta": {"role": "assistant", "content": ""}}}, ".chunk"))
            async for i, text in pieces:
                yield _event(self._body({i: {"delta": {"content": text}} if self.chat else {"text": text}}, ".chunk"))
            if usage:
                yield _event(self._body({}, ".chunk", usage=True))
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield _event(api_error(error).body)

    def _message(self, text: str) -> dict[str, Any]:
        parsed = self.fmt.parse(text, opened=self.opened) if self.fmt else None
        more = {"reasoning": parsed.reasoning, "answer": parsed.answer} if parsed else {}
        return {"message": {"role": "assistant", "content": text, "refusal": None, **more}}

    def _body(self, contents: Mapping[int, dict[str, Any]], part: str = "", *, usage: bool = False) -> dict[str, Any]:
        kind, prefix = (f"chat.completion{part}", "chatcmpl") if self.chat else ("text_completion", "cmpl")
        choices = [
            {"index": i, **content, "logprobs": None, "finish_reason": self.texts[i].finish or None}
            for i, content in contents.items()
        ]
        body = {"id": f"{prefix}-{self.created_ns:x}", "created": self.created_ns // 10**9, "model": self.model,
                "object": kind, "choices": choices}  # fmt: skip
        asked, drawn = self.prompt_tokens, sum(text.num_tokens for text in self.texts)
        counts = {"prompt_tokens": asked, "completion_tokens": drawn, "total_tokens": asked + drawn}
        return body | ({"usage": counts} if usage else {})


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
