"""Completions in the JSON shapes of the OpenAI API: whole, or as the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mathgrpo.formats import Format
from mathgrpo.serving.pieces import Piece


@dataclass(frozen=True, slots=True)
class Reply:
    """What all parts of one reply have in common.

    Attributes:
        model: the name it was served under.
        prompt_tokens: tokens of the prompt.
        chat: a chat completion, else a text completion.
        fmt: the format to read reasoning and answer with; None when the request brought its own instructions.
        fingerprint: names the software.
    """

    id: str
    created: int
    model: str
    prompt_tokens: int
    chat: bool
    fmt: Format | None
    fingerprint: str

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the reply in one object. A message in the format also has its "reasoning" and "answer"."""
        texts, ends = _joined(pieces)
        choices = [self._choice(i, texts[i], ends[i].finish) for i in sorted(texts)]
        return self._head(chunk=False) | {"choices": choices, "usage": self._usage(ends)}

    def first_chunks(self, samples: int) -> list[dict[str, Any]]:
        """Return the chunks that open a stream: the role of each choice; none for a text completion."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(i, delta, None) for i in range(samples)] if self.chat else []

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks of a piece: its text, and its end."""
        if not self.chat:
            return [self._chunk(piece.sample, piece.text, piece.finish)]
        found = [self._chunk(piece.sample, {"content": piece.text}, None)] if piece.text else []
        return [*found, self._chunk(piece.sample, {}, piece.finish)] if piece.finish else found

    def usage_chunk(self, ends: Mapping[int, Piece]) -> dict[str, Any]:
        """Return the chunk that counts tokens, without a choice."""
        return self._head(chunk=True) | {"choices": [], "usage": self._usage(ends)}

    def _choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        if not self.chat:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.fmt is not None:
            parsed = self.fmt.parse(text)
            message |= {"reasoning": parsed.reasoning, "answer": parsed.answer}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def _chunk(self, index: int, content: dict[str, Any] | str, finish: str | None) -> dict[str, Any]:
        name = "delta" if self.chat else "text"
        choice = {"index": index, name: content, "logprobs": None, "finish_reason": finish}
        return self._head(chunk=True) | {"choices": [choice]}

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint,
        }  # fmt: skip

    def _usage(self, ends: Mapping[int, Piece]) -> dict[str, int]:
        drawn = sum(end.tokens for end in ends.values())
        return {
            "prompt_tokens": self.prompt_tokens, "completion_tokens": drawn, "total_tokens": self.prompt_tokens + drawn,
        }  # fmt: skip


def new_reply(model: str, prompt_tokens: int, *, chat: bool, fmt: Format | None, fingerprint: str) -> Reply:
    """Return a reply with an id and a time of its own."""
    prefix = "chatcmpl" if chat else "cmpl"
    return Reply(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), model, prompt_tokens, chat, fmt, fingerprint)


def event(data: dict[str, Any] | str) -> str:
    """Return one server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def _joined(pieces: Sequence[Piece]) -> tuple[dict[int, str], dict[int, Piece]]:
    """Return each completion's text, and its last piece."""
    texts: dict[int, list[str]] = {}
    ends: dict[int, Piece] = {}
    for piece in pieces:
        texts.setdefault(piece.sample, []).append(piece.text)
        ends[piece.sample] = piece
    return {sample: "".join(parts) for sample, parts in texts.items()}, ends
