"""Whether a model's prompts can be answered as the response format asks, before any of them is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from mathgrpo.answers.gold_check import PROBE_REASONING
from mathgrpo.errors import UserError
from mathgrpo.formats import Format
from mathgrpo.formats.chat import put
from mathgrpo.formats.template_arguments import require_arguments, require_open, shown_arguments
from mathgrpo.formats.template_probe import template_of
from mathgrpo.formats.thinking import behind
from mathgrpo.types import Problem


def require_answerable(tokenizer: Any, fmt: Format, problem: Problem | None = None) -> None:
    """Return when a prompt ends where the assistant's turn begins, and the best completion of it has the format.

    problem: to ask; None: a short sum.

    Raises:
        UserError: the chat template does not read its arguments, does not take the conversation, ends a prompt before
            the assistant's turn, or no completion reads as the format when the tokenizer has been through it.
    """
    require_arguments(tokenizer, fmt.chat_template_kwargs, "format.chat_template_kwargs")
    asked = problem or Problem("What is 2 + 2?", "4", solution=PROBE_REASONING)
    shown = put(tokenizer, asked, fmt)
    require_open(shown)
    best = behind(shown.opened, fmt.write(PROBE_REASONING, "4"))
    ids = tokenizer(best, add_special_tokens=False)["input_ids"]
    read = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    parsed = fmt.parse(read, opened=shown.opened)
    if not parsed.strict or parsed.answer is None:
        lost = next((mark for mark in fmt.marks if mark not in shown.opened + read), "")
        why = f"its tokenizer has no {lost}" if lost else f"a prompt ends with {shown.text[-30:]!r}"
        raise UserError(
            f'format.name="{fmt.name}": no completion of this model can have this format ({why}): the best one reads '
            f"{read[:60]!r}; use another format, or another chat template"
        )


def date_note(tokenizer: Any, fmt: Format) -> str:
    """Return a note when the chat template writes today's date, so that another day's prompts are others; else ""."""
    if "strftime_now" not in template_of(tokenizer) or fmt.leaky:
        return ""
    told = {**fmt.chat_template_kwargs, "strftime_now": None}  # a template that calls it fails
    with suppress(UserError):
        put(tokenizer, Problem("What is 2 + 2?", "4"), replace(fmt, chat_template_kwargs=told))
        return ""
    names = ", ".join(shown_arguments(template_of(tokenizer))) or "none"
    return (
        "the chat template writes today's date into every prompt; format.chat_template_kwargs can pin it where the "
        f"template reads one (it reads {names})"
    )
