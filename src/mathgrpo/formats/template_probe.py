"""What a chat template does to the turns of any conversation, seen from marks in place of their words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mathgrpo.formats.thinking import BEGINNINGS, opened_in
from mathgrpo.formats.turns import Turn, applied, content_text, shaped

_MARK = "Probe{}Qz"


@dataclass(frozen=True, slots=True)
class Probe:
    """What the marks show.

    Attributes:
        fault: what is wrong with the prompt, "" where nothing is.
        end: what follows the last question.
        opened: of the answer, see `opened_in`.
        lacks: see `Rendered`.
    """

    fault: str
    end: str = ""
    opened: str = ""
    lacks: str = ""


def template_of(tokenizer: Any) -> str:
    """Return the chat template, of several the one for plain conversations; "" without any."""
    return str(tokenizer.get_chat_template()) if getattr(tokenizer, "chat_template", None) else ""


def probed(tokenizer: Any, turns: Sequence[Turn], arguments: Mapping[str, Any]) -> Probe | None:
    """Return what marks in place of the words show; None where turns hold more than words, or the words decide."""
    if any(turn.keys() - {"role", "content"} or len(turn) < 2 for turn in turns):
        return None
    shape = tuple((turn["role"], isinstance(turn["content"], list)) for turn in turns)
    return probe(tokenizer, template_of(tokenizer), shape, json.dumps(arguments, default=str))


@lru_cache(maxsize=256)
def probe(tokenizer: Any, template: str, shape: tuple[tuple[str, bool], ...], arguments: str) -> Probe | None:
    """Return what a chat template does to any conversation of a shape; None where the words decide.

    template: the tokenizer's. shape: role of each turn, and whether it is in parts. arguments: as JSON.
    """
    options = json.loads(arguments)
    marks = [_MARK.format(number) for number in range(len(shape) + 1)]
    turns = [shaped({"role": role, "content": mark}, parts) for (role, parts), mark in zip(shape, marks, strict=False)]
    try:
        text = applied(tokenizer, turns, options)
    except Exception:
        return None
    lost = next((turn["role"] for turn, mark in zip(turns, marks, strict=False) if mark not in text), "")
    if lost:
        return Probe(f"it leaves the {lost} turn out")
    if re.search(r"""["']text["']: ?["']Probe\d""", text):
        return Probe("it prints the parts of a turn, not their text")
    if shape[-1][0] == "assistant":
        return Probe("")
    end = text.rpartition(marks[_last_question(turns)])[2]
    answer = shaped({"role": "assistant", "content": marks[-1]}, shape[-1][1])
    return Probe("", end, opened_in(end), _lacking(tokenizer, turns, answer, options, text))


def _last_question(turns: Sequence[Turn]) -> int:
    return max((i for i, turn in enumerate(turns) if turn["role"] != "assistant"), default=0)


def _lacking(tokenizer: Any, turns: list[Turn], answer: Turn, options: Mapping[str, Any], text: str) -> str:
    """Return how an assistant's turn begins, where prompts do not end with it: add_generation_prompt is not heeded."""
    apply, mark = tokenizer.apply_chat_template, content_text(answer)
    try:
        if apply(turns, tokenize=False, add_generation_prompt=False, **options) != text:
            return ""
        before, answered, _ = str(apply([*turns, answer], tokenize=False, **options)).partition(mark)
    except Exception:  # it takes no answers, so it has no beginning for them
        return ""
    if not answered or not before.startswith(text.rstrip()):
        return ""
    begins = before[len(text.rstrip()) :].lstrip()
    words = begins
    for tag in (tag for pair in BEGINNINGS for tag in pair):
        words = words.replace(tag, "")
    return begins if words.strip() else ""


def opened_behind(tokenizer: Any, turns: Sequence[Turn], arguments: Mapping[str, Any]) -> str:
    """Return what the prompt of this very conversation has opened of the answer, see `opened_in`."""
    asked, mark = _last_question(turns), _MARK.format("")
    last, begun = turns[asked], content_text(turns[-1]) if turns[-1]["role"] == "assistant" else ""
    marked = shaped({**last, "content": content_text(last) + mark}, isinstance(last.get("content"), list))
    try:
        text = applied(tokenizer, [*turns[:asked], marked, *turns[asked + 1 :]], arguments)
    except Exception:  # the mark is too much for it
        return begun
    return opened_in(text.rpartition(mark)[2], begun)
