"""From the JSON body of a request to what is to be generated; every complaint names the parameter.

Names and meanings: OpenAI API reference, "Create chat completion" and "Create completion".
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

MAX_SAMPLES = 128
"""Largest n, as the OpenAI API has it."""
MAX_STOPS = 4
R = TypeVar("R", bound="Options")


class ApiError(Exception):
    """A request that is refused.

    Attributes:
        status: of the HTTP response.
        param: the parameter that is wrong, None when it is none.
        code: short name of the error, None without one.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """Return the error in OpenAI's JSON shape."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def _whole_characters(text: str) -> str:
    """Return the text; JSON can hold half of a character, which no tokenizer reads."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("holds half of a character (a lone surrogate)")
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class Message(BaseModel):
    """One turn of a conversation. Content in parts is joined; only text is understood."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: Text

    @field_validator("role")
    @classmethod
    def _known_role(cls, role: str) -> str:
        role = "system" if role == "developer" else role
        if role not in ("system", "user", "assistant"):
            raise ValueError("allowed: system, developer, user, assistant")
        return role

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, content: object) -> object:
        if not isinstance(content, list):
            return content
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError("only parts of type text are understood")
        return "".join(part for part in parts if part is not None)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class Options(BaseModel):
    """What both kinds of request have in common. Numbers are not coerced from text.

    The parameters at the end change nothing here and are accepted at the value that asks for nothing.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0.0, lt=1.0)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=MAX_SAMPLES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    presence_penalty: float | None = Field(None, ge=0.0, le=0.0)
    frequency_penalty: float | None = Field(None, ge=0.0, le=0.0)
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a completion."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @field_validator("stop")
    @classmethod
    def _stops_are_texts(cls, stop: str | list[str] | None) -> str | list[str] | None:
        texts = [stop] if isinstance(stop, str) else stop or []
        if len(texts) > MAX_STOPS or not all(texts):
            raise ValueError(f"at most {MAX_STOPS} texts, none of them empty")
        return stop


class ChatRequest(Options):
    """A body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None

    @field_validator("logprobs")
    @classmethod
    def _no_logprobs(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("not served here; leave it out")
        return value

    @field_validator("response_format")
    @classmethod
    def _plain_text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type") != "text":
            raise ValueError('only {"type": "text"} is served here')
        return value

    @property
    def limit(self) -> int | None:
        """Tokens at most, None when the request does not say."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Options):
    """A body of POST /v1/completions: the prompt is the text itself, without format or chat template."""

    prompt: Text = Field(min_length=1)

    @property
    def limit(self) -> int | None:
        """Tokens at most, None when the request does not say."""
        return self.max_tokens


def read_request(kind: type[R], body: bytes) -> R:
    """Return the request in a body.

    Raises: ApiError with status 400 and one line that names the first wrong parameter.
    """
    try:
        data = json.loads(body)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body is not a JSON object")
    try:
        return kind.model_validate({name: value for name, value in data.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error, kind) from None


def _refusal(error: ValidationError, kind: type[Options]) -> ApiError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"] if str(part) not in ("str", "list[str]")]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields)
        return ApiError(
            400, f"{name}: no such parameter here; there are: {known}", param=name, code="unknown_parameter"
        )
    reason = "missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{name}: {reason[:1].lower()}{reason[1:]}", param=name)
