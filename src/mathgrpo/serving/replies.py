"""Completions in the JSON shapes of the OpenAI API: whole, or as the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from mathgrpo.formats import Format
from mathgrpo.serving.stream import CompletionText


class Reply:
    """One reply. fmt: the format to read reasoning and answer with; None when the request has its own instructions."""

    def __init__(
        self, model: str, prompt_tokens: int, texts: Sequence[CompletionText], *, chat: bool, fmt: Format | None
    ) -> None:
        self._prompt_tokens, self._texts, self._chat, self._fmt = prompt_tokens, texts, chat, fmt
        self._kind, prefix = ("chat.completion", "chatcmpl") if chat else ("text_completion", "cmpl")
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self) -> dict[str, Any]:
        """Return the reply in one object. A message in the format also has its "reasoning" and "answer"."""
        choices = []
        for i, text in enumerate(self._texts):
            message: dict[str, Any] = {"role": "assistant", "content": text.text, "refusal": None}
            if self._fmt is not None:
                parsed = self._fmt.parse(text.text)
                message |= {"reasoning": parsed.reasoning, "answer": parsed.answer}
            choices.append(self._choice(i, {"message": message} if self._chat else {"text": text.text}))
        return {**self._head, "object": self._kind, "choices": choices, "usage": self._usage()}

    def first_events(self) -> str:
        """Return what opens a stream: the role of each choice; nothing for a text completion."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        return "".join(self._event([self._choice(i, delta)]) for i in range(len(self._texts)) if self._chat)

    def next_event(self, index: int, text: str) -> str:
        """Return the event of the next text of a choice; with its last text comes why it ended."""
        return self._event([self._choice(index, {"delta": {"content": text}} if self._chat else {"text": text})])

    def last_events(self, *, usage: bool) -> str:
        """Return what closes a stream, before it the count of tokens if it is wanted."""
        return (self._event([], usage=self._usage()) if usage else "") + "data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        kind = f"{self._kind}.chunk" if self._chat else self._kind
        return event({**self._head, "object": kind, "choices": choices, **more})

    def _choice(self, index: int, content: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": None, "finish_reason": self._texts[index].finish or None}

    def _usage(self) -> dict[str, int]:
        asked, drawn = self._prompt_tokens, sum(text.num_tokens for text in self._texts)
        return {"prompt_tokens": asked, "completion_tokens": drawn, "total_tokens": asked + drawn}


def event(data: dict[str, Any]) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
