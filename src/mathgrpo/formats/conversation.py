"""From a conversation of several turns to the prompt a model sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mathgrpo.formats.chat import encode_prompt, has_template, prompt_of
from mathgrpo.formats.format import Format
from mathgrpo.formats.rendering import Rendered, conversation, plain_prompt
from mathgrpo.formats.thinking import opened_at_end
from mathgrpo.formats.turns import Turn
from mathgrpo.types import Problem, Prompt, question_id


def conversation_prompt(
    tokenizer: Any, turns: Sequence[Turn], fmt: Format | None, arguments: Mapping[str, Any]
) -> Prompt:
    """Return a conversation as a prompt, its turns put as a format puts questions; None: as they are.

    A single question's is the prompt of training, evaluation and `mathgrpo solve`. A last turn of the assistant is
    continued.

    arguments: of the chat template.
    Raises: UserError when the chat template does not take it, or the format is leaky.
    """
    if fmt is not None:
        if len(turns) == 1:
            problem = Problem(question=turns[0]["content"], answer="")
            return encode_prompt(tokenizer, problem, replace(fmt, chat_template_kwargs=arguments))
        put = [{**t, "content": fmt.user_turn(t["content"])} if t["role"] == "user" else t for t in turns]
        turns = [{"role": "system", "content": fmt.system_prompt}, *put]
    shown = conversation(tokenizer, turns, arguments)
    asked = prompt_of if has_template(tokenizer) else plain_prompt
    return asked(tokenizer, shown, question_id(shown.text))


def text_prompt(tokenizer: Any, text: str) -> Prompt:
    """Return a text as the prompt it is, without format or chat template.

    Raises: UserError when the tokenizer makes no token of it.
    """
    return plain_prompt(tokenizer, Rendered(text, opened_at_end(text), ()), question_id(text))
