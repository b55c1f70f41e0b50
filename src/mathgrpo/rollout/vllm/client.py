"""A vLLM server over HTTP: OpenAI's completions with token ids, and vLLM's development routes."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from mathgrpo.errors import UserError, named
from mathgrpo.rollout.vllm.backend import Backend, Drawn, Request, ServerLost

_CONNECTIONS = 64
"""Requests under way at once, at most; each is one prompt with all its completions."""

SERVED_NAME = "policy"
"""The name a server gives the model, as in --served-model-name."""


class Client(Backend):
    """Requests to one server that somebody started.

    url: "http://HOST:PORT".
    timeout_s: longest wait for an answer; a rollout is one.
    """

    def __init__(self, url: str, *, timeout_s: float, key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise UserError(f"{named('rollout.vllm.url', url)}: not an address; write it as http://HOST:PORT")
        self.url, self._host, self._port, self._timeout_s = url, parts.hostname, parts.port or 80, timeout_s
        self.where = f"server at {url}"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def version(self) -> str:
        """Return the server's version of vLLM."""
        return str(self._ask("GET", "/version").get("version", "unknown"))

    def is_ready(self) -> bool:
        """Return whether the server answers and is healthy."""
        try:
            self._ask("GET", "/health", timeout_s=5.0)
        except (ServerLost, UserError):
            return False
        return True

    def logprobs_mode(self) -> str:
        """Return under which distribution the server reports log-probabilities; "" when it does not say."""
        settings = self._ask("GET", "/server_info?config_format=json").get("vllm_config", {})
        model = settings.get("model_config", {}) if isinstance(settings, dict) else {}
        return str(model.get("logprobs_mode", "")) if isinstance(model, dict) else ""

    def sample(self, requests: Sequence[Request]) -> list[list[Drawn]]:
        with ThreadPoolExecutor(min(len(requests), _CONNECTIONS)) as pool:
            return list(pool.map(self._complete, requests))

    def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        body = {"model": SERVED_NAME, "prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        entries = self._ask("POST", "/v1/completions", body)["choices"][0]["prompt_logprobs"]
        return [entry[str(token)]["logprob"] for token, entry in zip(ids[1:], entries[1:], strict=True)]

    def load(self, path: str) -> list[Any]:
        answers: list[Any] = self._ask("POST", "/collective_rpc", {"method": "mathgrpo_load", "args": [path]})[
            "results"
        ]
        if not self._ask("POST", "/reset_prefix_cache").get("success"):
            raise ServerLost("it did not drop its prefix cache")
        return answers

    def sleep(self) -> None:
        self._ask("POST", "/sleep?level=1")

    def wake(self) -> None:
        self._ask("POST", "/wake_up")

    def _complete(self, request: Request) -> list[Drawn]:
        asked = {"model": SERVED_NAME, "prompt": list(request.ids), "return_token_ids": True, "stream": False}
        choices = self._ask("POST", "/v1/completions", asked | request.parameters)["choices"]
        choices.sort(key=lambda choice: choice["index"])
        return [Drawn(each["token_ids"], each["logprobs"]["token_logprobs"]) for each in choices]

    def _ask(self, method: str, path: str, body: Any = None, timeout_s: float | None = None) -> Any:
        """Return the JSON answer, {} for an empty one.

        Raises: ServerLost when there is none; UserError with the server's own words when it refuses.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s or self._timeout_s)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, self._headers)
            response = connection.getresponse()
            status, text = response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise ServerLost(f"{self.url}{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if status >= 500:
            raise ServerLost(f"{self.url}{path} answered {status}: {_words(text)}")
        if status >= 400:
            raise UserError(f"{named('rollout.vllm')}: {self.url}{path} refused ({status}): {_words(text)}")
        return json.loads(text) if text else {}


def _words(text: str) -> str:
    """Return the message in an error answer, on one line."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = text
    for name in ("error", "message", "detail"):
        answer = answer.get(name, answer) if isinstance(answer, dict) else answer
    return " ".join(str(answer).split())[:300]
