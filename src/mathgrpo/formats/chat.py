"""From a problem to the prompt a model sees: chat messages, text, token ids."""

from __future__ import annotations

from typing import Any

from mathgrpo.errors import UserError, first_line
from mathgrpo.formats.format import Format
from mathgrpo.types import Problem, Prompt

Message = dict[str, str]


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
        return [{"role": "user", "content": fmt.problem_turn(problem)}]
    return prompt_messages(problem.question, fmt)


def problem_text(tokenizer: Any, problem: Problem, fmt: Format) -> str:
    """Return the prompt of a problem as text: a leaky format's is its user turn and nothing else.

    Raises:
        UserError: the chat template fails, or the format is leaky and the problem has no worked solution.
    """
    return fmt.problem_turn(problem) if fmt.leaky else prompt_text(tokenizer, problem.question, fmt)


def prompt_text(tokenizer: Any, question: str, fmt: Format) -> str:
    """Return the prompt as text: by the tokenizer's chat template, or in a plain layout without one.

    Templates that refuse a system turn, or leave it out in silence, get the instruction in front of the question.

    Raises:
        UserError: the chat template fails even on a single user turn, or the format is leaky: a question alone has
            no solution to show.
    """
    if fmt.leaky:
        raise UserError(f'format.name="{fmt.name}": it needs worked solutions, and here are questions; use "think"')
    if not _has_template(tokenizer):
        return f"{fmt.system_prompt.strip()}\n\n{fmt.user_turn(question)}\n\n"
    from jinja2 import TemplateError

    messages = prompt_messages(question, fmt)
    try:
        text = _render(tokenizer, messages)
        if fmt.system_prompt.strip() in text:
            return text
    except TemplateError:
        pass  # such as Gemma's: the system role is an error there; the merged turn below says the same
    try:
        return _render(tokenizer, _merged(messages))
    except TemplateError as error:
        raise UserError(
            f"model.path: its chat template fails on one user turn ({first_line(error)}); "
            "repair chat_template in the model's folder or remove it to use the plain layout"
        ) from error


def conversation_text(tokenizer: Any, messages: list[Message]) -> str:
    """Return any conversation as text; a template that refuses a system turn gets it inside the first user turn.

    Without a template, in the plain layout of single questions: paragraphs, the last to be answered.

    Raises:
        UserError: the chat template does not take it.
    """
    from jinja2 import TemplateError

    if not _has_template(tokenizer):
        return "".join(f"{message['content'].strip()}\n\n" for message in messages)
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), 0)
    merged = [*_merged(messages[: first + 1]), *messages[first + 1 :]]
    reason = "it leaves turns out"
    for attempt in (messages, merged):
        try:
            text = _render(tokenizer, attempt)
        except TemplateError as error:
            reason = first_line(error)
            continue
        # Some templates leave out a system turn in silence; that they cut old answers short is as the model expects.
        if all(message["content"].strip() in text for message in attempt if message["role"] != "assistant"):
            return text
    raise UserError(f"messages: the model's chat template does not take this conversation ({reason})")


def encode_prompt(tokenizer: Any, problem: Problem, fmt: Format) -> Prompt:
    """Return a problem's prompt as token ids, with the key that names the problem.

    A chat template writes its own beginning-of-sequence token, so none is added there; the plain layout gets the one
    the tokenizer adds by itself, and no end-of-sequence token, which some tokenizers add too.

    Raises:
        UserError: the chat template fails, the prompt has no token, or there is no solution for a leaky format.
    """
    text = problem_text(tokenizer, problem, fmt)
    return prompt_of_text(tokenizer, text, problem.id, plain=fmt.leaky or not _has_template(tokenizer))


def prompt_of_text(tokenizer: Any, text: str, name: str, *, plain: bool) -> Prompt:
    """Return a text as a prompt; the noise of its completions is keyed by its name, a `question_id`.

    plain: no chat template has written the text, so the tokenizer adds its own beginning-of-sequence token.
    Raises: UserError when the tokenizer makes no token of it.
    """
    ids = list(tokenizer(text, add_special_tokens=plain)["input_ids"])
    if plain and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    if not ids:
        raise UserError("model.path: its tokenizer makes no token of a prompt; use the one the model was trained with")
    return Prompt(ids=tuple(ids), key=int(name, 16) >> 1)


def _has_template(tokenizer: Any) -> bool:
    """Return whether the tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def _render(tokenizer: Any, messages: list[Message]) -> str:
    """Return a conversation as text, ready for the assistant to speak."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _merged(messages: list[Message]) -> list[Message]:
    """Return the same conversation as one user turn."""
    return [{"role": "user", "content": "\n\n".join(message["content"].strip() for message in messages)}]
