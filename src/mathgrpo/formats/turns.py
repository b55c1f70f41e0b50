"""The turns of a conversation in the shapes that chat templates take, and one of them through the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mathgrpo.formats.thinking import BEGINNINGS

Turn = dict[str, Any]
"""A message: "role", "content" (text, or parts like {"type": "text", "text": ...}), whatever else a template reads."""


def content_text(turn: Turn) -> str:
    """Return the words of a turn, whether its content is text or parts."""
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    return str(content or "")


def shapes(turns: Sequence[Turn]) -> Iterator[Sequence[Turn]]:
    """Yield the conversation as it is and with the system's words in the first user turn, both in text and in parts."""
    in_parts = any(isinstance(turn.get("content"), list) for turn in turns)
    for parts in (in_parts, not in_parts):
        yield turns if parts == in_parts else [shaped(turn, parts) for turn in turns]
        if turns[0]["role"] == "system":
            yield [shaped(turn, parts) for turn in _merged(turns)]


def shaped(turn: Turn, parts: bool) -> Turn:
    """Return a turn with its content in parts, or as text."""
    content = turn.get("content")
    if parts and isinstance(content, str):
        return {**turn, "content": [{"type": "text", "text": content}]}
    return {**turn, "content": content_text(turn)} if not parts and isinstance(content, list) else turn


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    """Return the conversation with all that comes before its first other turn inside that, a user's."""
    first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), 0)
    opening = "\n\n".join(content_text(turn).strip() for turn in turns[: first + 1])
    return [{**turns[first], "role": "user", "content": opening}, *turns[first + 1 :]]


def applied(tokenizer: Any, turns: Sequence[Turn], arguments: Mapping[str, Any]) -> str:
    """Return the prompt of a conversation. An answer that opens a tag is not the template's to rewrite: put behind."""
    apply = tokenizer.apply_chat_template
    if turns[-1]["role"] != "assistant":
        return str(apply(list(turns), tokenize=False, add_generation_prompt=True, **arguments))
    begun = content_text(turns[-1])
    if not any(opening in begun for opening, _ in BEGINNINGS):
        try:
            return str(apply(list(turns), tokenize=False, continue_final_message=True, **arguments))
        except ValueError:  # the template changes the answer
            pass
    before = str(apply(list(turns[:-1]), tokenize=False, add_generation_prompt=True, **arguments))
    twice = next((tag for tag, _ in BEGINNINGS if before.rstrip().endswith(tag) and begun.lstrip().startswith(tag)), "")
    return before + (begun.lstrip().removeprefix(twice).lstrip() if twice else begun)
