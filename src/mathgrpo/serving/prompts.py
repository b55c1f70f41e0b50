"""From a conversation to the prompt the model sees."""

from __future__ import annotations

from collections.abc import Sequence

from mathgrpo.errors import UserError, first_line
from mathgrpo.formats import Format
from mathgrpo.formats.chat import encode_prompt, prompt_of_text
from mathgrpo.models import Policy
from mathgrpo.serving.requests import ApiError, Message
from mathgrpo.types import Problem, Prompt, question_id


def in_format(messages: Sequence[Message]) -> bool:
    """Return whether the format's own prompt goes round a conversation: it brings no system message itself."""
    return all(message.role != "system" for message in messages)


def chat_prompt(policy: Policy, messages: Sequence[Message], fmt: Format) -> Prompt:
    """Return a conversation as a prompt.

    One without a system message gets the format's system prompt, and its user turns are put as the format puts
    questions: a single question has then the prompt that training, evaluation and `mathgrpo solve` give it. One with a
    system message is taken as it is.

    Raises: ApiError when the conversation does not end with a user turn or the chat template refuses it.
    """
    if messages[-1].role != "user":
        raise ApiError(400, f"messages: the last one is from the {messages[-1].role}; end with one of role user",
                       param="messages")  # fmt: skip
    if len(messages) == 1:
        try:
            return encode_prompt(policy.tokenizer, Problem(question=messages[0].content, answer=""), fmt)
        except UserError as error:
            raise ApiError(400, str(error), param="messages") from None
    turns = [(message.role, message.content) for message in messages]
    if in_format(messages):
        asked = [(role, fmt.user_turn(text) if role == "user" else text) for role, text in turns]
        turns = [("system", fmt.system_prompt), *asked]
    return _encoded(policy, _conversation_text(policy, turns), plain=not policy.tokenizer.chat_template)


def text_prompt(policy: Policy, text: str) -> Prompt:
    """Return a text as a prompt, as the tokenizer reads any text."""
    return _encoded(policy, text, plain=True)


def _encoded(policy: Policy, text: str, *, plain: bool) -> Prompt:
    """Return a text's tokens; the noise of its completions is keyed by it, as a problem's is by the question."""
    try:
        return prompt_of_text(policy.tokenizer, text, question_id(text), plain=plain)
    except UserError:
        raise ApiError(400, "prompt: the tokenizer makes no token of it") from None


def _conversation_text(policy: Policy, turns: list[tuple[str, str]]) -> str:
    """Return the turns by the chat template; a template that refuses a system turn gets it inside the first user turn.

    Without a template, in the plain layout of single questions: paragraphs, the last to be answered.
    """
    from jinja2 import TemplateError

    if not policy.tokenizer.chat_template:
        return "".join(f"{text.strip()}\n\n" for _, text in turns)
    reason = ""
    for attempt in (turns, _merged(turns)):
        conversation = [{"role": role, "content": text} for role, text in attempt]
        try:
            text = policy.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            reason = reason or first_line(error)
            continue
        # Some templates leave out a system turn in silence; that they cut old answers short is as the model expects.
        if all(part["content"].strip() in text for part in conversation if part["role"] != "assistant"):
            return str(text)
    raise ApiError(
        400, f"messages: the model's chat template does not take this conversation ({reason or 'it leaves turns out'})",
        param="messages",
    )  # fmt: skip


def _merged(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the turns with the system's texts in front of the first user turn."""
    system = [text.strip() for role, text in turns if role == "system"]
    rest = [turn for turn in turns if turn[0] != "system"]
    return [("user", "\n\n".join([*system, rest[0][1]])), *rest[1:]] if rest and rest[0][0] == "user" else rest
