"""From a problem to the prompt a model sees: chat messages, text, token ids."""

from __future__ import annotations

import json
from typing import Any

from mathgrpo.formats.format import Format
from mathgrpo.formats.leaky import leaky_turn
from mathgrpo.formats.rendering import Rendered, conversation, plain_prompt
from mathgrpo.formats.template_probe import probe
from mathgrpo.types import Problem, Prompt

Message = dict[str, str]
ASKED = (("system", False), ("user", False))
"""Shape of the conversation that asks a question, for `probe`."""


def prompt_messages(question: str, fmt: Format) -> list[Message]:
    """Return the conversation that asks a question: the format's system turn, then the user turn."""
    return [
        {"role": "system", "content": fmt.system_prompt},
        {"role": "user", "content": fmt.user_turn(question)},
    ]


def problem_messages(problem: Problem, fmt: Format) -> list[Message]:
    """Return the conversation that puts a problem: a leaky format's is one user turn with the solution in it.

    Raises:
        UserError: the format is leaky and the problem has no worked solution.
    """
    if fmt.leaky:
        return [{"role": "user", "content": leaky_turn(problem, fmt)}]
    return prompt_messages(problem.question, fmt)


def problem_text(tokenizer: Any, problem: Problem, fmt: Format) -> str:
    """Return the prompt of a problem as text, see `put`."""
    return put(tokenizer, problem, fmt).text


def put(tokenizer: Any, problem: Problem, fmt: Format) -> Rendered:
    """Return the prompt of a problem, and what it has opened of the answer; a leaky format's is its user turn alone.

    Raises: UserError where the chat template does not take it, or a leaky format has no worked solution to show.
    """
    if fmt.leaky:
        return Rendered(leaky_turn(problem, fmt), "", problem_messages(problem, fmt))
    turns, told = prompt_messages(problem.question, fmt), fmt.chat_template_kwargs
    seen = probe(tokenizer, str(tokenizer.chat_template), ASKED, json.dumps(told)) if has_template(tokenizer) else None
    if seen is not None and not seen.fault:  # as good as every template: what is rare is for `rendered`
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **told))
        if text.endswith(seen.end) and all(turn["content"].strip() in text for turn in turns):
            return Rendered(text, seen.opened, turns, seen.lacks)
    return conversation(tokenizer, turns, told)


def encode_prompt(tokenizer: Any, problem: Problem, fmt: Format) -> Prompt:
    """Return a problem's prompt as token ids, with the key that names the problem.

    A chat template writes its own beginning-of-sequence token, so none is added there; the plain layout gets the one
    the tokenizer adds by itself, and no end-of-sequence token, which some tokenizers add too.

    Raises:
        UserError: the chat template fails, the prompt has no token, or there is no solution for a leaky format.
    """
    shown = put(tokenizer, problem, fmt)
    if fmt.leaky or not has_template(tokenizer):
        return plain_prompt(tokenizer, shown, problem.id)
    return prompt_of(tokenizer, shown, problem.id)


def prompt_of(tokenizer: Any, shown: Rendered, name: str) -> Prompt:
    """Return what a chat template wrote as a prompt, its noise keyed by its name, a `question_id`.

    Raises: UserError when the tokenizer makes no token of it.
    """
    ids = tuple(tokenizer(shown.text, add_special_tokens=False)["input_ids"])
    return Prompt(ids, int(name, 16) >> 1, shown.opened) if ids else plain_prompt(tokenizer, shown, name)


def has_template(tokenizer: Any) -> bool:
    """Return whether the tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))
