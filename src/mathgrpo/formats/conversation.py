"""From a conversation of several turns to the prompt a model sees."""

from __future__ import annotations

from typing import Any

from mathgrpo.formats.chat import Message, conversation_text, encode_prompt, has_template, prompt_of_text
from mathgrpo.formats.format import Format
from mathgrpo.types import Problem, Prompt, question_id


def conversation_prompt(tokenizer: Any, turns: list[Message], fmt: Format | None) -> Prompt:
    """Return a conversation as a prompt, its turns put as a format puts questions; None: as they are.

    A single question's is the prompt of training, evaluation and `mathgrpo solve`.

    Raises:
        UserError: the chat template does not take it, or the format is leaky.
    """
    if fmt is not None:
        if len(turns) == 1:
            return encode_prompt(tokenizer, Problem(question=turns[0]["content"], answer=""), fmt)
        asked = [{**t, "content": fmt.user_turn(t["content"])} if t["role"] == "user" else t for t in turns]
        turns = [{"role": "system", "content": fmt.system_prompt}, *asked]
    text = conversation_text(tokenizer, turns)
    return prompt_of_text(tokenizer, text, question_id(text), plain=not has_template(tokenizer))
