"""A conversation through a model's chat template: every turn in it word for word, and the answer's turn open."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mathgrpo.errors import UserError, first_line, named
from mathgrpo.formats.template_probe import opened_behind, probed, template_of
from mathgrpo.formats.turns import Turn, applied, content_text, shapes
from mathgrpo.types import Prompt

_SWITCH = re.compile(r"(?<!\S)/(?:no_)?think(?!\S)")
"""Words of a turn that some templates obey and take out."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as text.

    Attributes:
        text: the whole of it.
        opened: what it has written of the answer already, as far as a reader of completions must know: an opened
            <think>, an answer that the caller has begun; "" for most.
        turns: the conversation in the shape that the template takes.
        lacks: the beginning of an assistant's turn, where the template has one but keeps it out of prompts.
    """

    text: str
    opened: str
    turns: Sequence[Turn]
    lacks: str = ""


def rendered(tokenizer: Any, turns: Sequence[Turn], arguments: Mapping[str, Any]) -> Rendered:
    """Return a conversation as the chat template writes it; a last turn of the assistant is continued.

    A template that takes no text gets parts, one that takes no parts gets text; one that refuses a system turn, or
    leaves it out in silence, gets it inside the first user turn.

    arguments: of the template, such as enable_thinking.
    Raises: UserError where no shape of the conversation comes out of the template whole.
    """
    faults, raised = [], []
    for sent in shapes(turns):
        try:
            text = applied(tokenizer, sent, arguments)
        except Exception as error:  # a template raises what it likes: Gemma's refuses the system role
            raised.append(first_line(error))
            continue
        seen = probed(tokenizer, sent, arguments)
        faults.append(_left_out(sent, text) or (seen.fault if seen is not None else ""))
        if not faults[-1]:
            if seen is not None and seen.end and text.endswith(seen.end):
                return Rendered(text, seen.opened, sent, seen.lacks)
            return Rendered(text, opened_behind(tokenizer, sent, arguments), sent)
    raise UserError(
        f"{named('model.path')}: its chat template does not take this conversation ({(faults or raised)[0]}); "
        "repair chat_template in the model's folder or remove it to use the plain layout"
    )


def _left_out(turns: Sequence[Turn], text: str) -> str:
    """Return which turn's words are not in a prompt; "" when all are.

    Old answers may be cut short, as models with a thinking expect it.
    """
    for turn in turns:
        parts = turn["content"] if isinstance(turn.get("content"), list) else [turn.get("content")]
        words = (content_text({"content": [part] if isinstance(part, dict) else part}) for part in parts)
        if turn["role"] != "assistant" and any(
            piece.strip() not in text for part in words for piece in _SWITCH.split(part)
        ):
            return f"the {turn['role']} turn {content_text(turn).strip()[:40]!r} does not come out of it word for word"
    return ""


def conversation(tokenizer: Any, turns: Sequence[Turn], arguments: Mapping[str, Any]) -> Rendered:
    """Return a conversation as text: by the tokenizer's chat template, or in a plain layout without one.

    The plain layout is paragraphs, the last to be answered or, an assistant's, to be continued.

    Raises:
        UserError: the chat template does not take it.
    """
    if template_of(tokenizer):
        return rendered(tokenizer, turns, arguments)
    texts = [content_text(turn) for turn in turns]
    texts = [text.strip() if turn["role"] == "system" else text for text, turn in zip(texts, turns, strict=True)]
    begun = texts.pop() if turns[-1]["role"] == "assistant" else ""
    return Rendered("".join(f"{text}\n\n" for text in texts) + begun, begun, turns)


def plain_prompt(tokenizer: Any, shown: Rendered, name: str) -> Prompt:
    """Return a text that no chat template has written as a prompt, its noise keyed by its name, a `question_id`.

    Raises: UserError when the tokenizer makes no token of it.
    """
    ids = tuple(plain_ids(tokenizer, shown.text))
    if not ids:
        raise UserError("model.path: its tokenizer makes no token of a prompt; use the one the model was trained with")
    return Prompt(ids=ids, key=int(name, 16) >> 1, opened=shown.opened)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text to be continued: with what the tokenizer puts before it, once, nothing behind it.

    A text that a chat template has written begins with those tokens already.
    """
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(text)["input_ids"])
    for place in range(len(ids) - len(own) + 1):
        if ids[place : place + len(own)] == own:
            return own if own[:place] == ids[:place] else ids[:place] + own
    return ids  # a tokenizer that reads the words otherwise beside its special tokens
