"""From the JSON body of a request to what is asked for, in the OpenAI API's names; every complaint names one."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

R = TypeVar("R", bound="Options")
IDLE = ("user", "metadata", "store", "service_tier", "reasoning_effort")
"""Parameters that change nothing here."""
UNSERVED = ("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "response_format")
"""Parameters that are taken only at the value that asks for nothing."""


class ApiError(Exception):
    """A request that is refused: HTTP status, the parameter that is wrong, a short name of the error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """Return the error in OpenAI's JSON shape."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


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


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
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

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)


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
        raise _refusal(error, kind) from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON ({error})") from None


def _refusal(error: ValidationError, kind: type[Options]) -> ApiError:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("str", "list[", "function-")))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = f"no such parameter here; there are: {', '.join(kind.model_fields)}"
    return ApiError(
        400, f"{name}: {'missing' if first['type'] == 'missing' else reason[:1].lower() + reason[1:]}", name
    )
