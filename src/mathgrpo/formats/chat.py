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
        UserError: the chat template does not take it, or the format is leaky and the problem has no worked solution.
    """
    if fmt.leaky:
        return fmt.problem_turn(problem)
    return conversation_text(tokenizer, prompt_messages(problem.question, fmt))


def conversation_text(tokenizer: Any, messages: list[Message]) -> str:
    """Return a conversation as text: by the tokenizer's chat template, or in a plain layout without one.

    A template that refuses a system turn, or leaves it out in silence, gets it inside the first user turn. The plain
    layout is paragraphs, the last to be answered.

    Raises:
        UserError: the chat template does not take it.
    """
    if not has_template(tokenizer):
        texts = (turn["content"].strip() if turn["role"] == "system" else turn["content"] for turn in messages)
        return "".join(f"{text}\n\n" for text in texts)
    from jinja2 import TemplateError

    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), 0)
    opening = "\n\n".join(message["content"].strip() for message in messages[: first + 1])
    merged = [{"role": "user", "content": opening}, *messages[first + 1 :]]
    reason = "it leaves turns out"
    for attempt in (messages, merged):
        try:
            text = str(tokenizer.apply_chat_template(attempt, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:  # such as Gemma's: the system role is an error there
            reason = first_line(error)
            continue
        # That templates cut old answers short is as the model expects.
        if all(message["content"].strip() in text for message in attempt if message["role"] != "assistant"):
            return text
    raise UserError(
        f"model.path: its chat template does not take this conversation ({reason}); "
        "repair chat_template in the model's folder or remove it to use the plain layout"
    )


def encode_prompt(tokenizer: Any, problem: Problem, fmt: Format) -> Prompt:
    """Return a problem's prompt as token ids, with the key that names the problem.

    A chat template writes its own beginning-of-sequence token, so none is added there; the plain layout gets the one
    the tokenizer adds by itself, and no end-of-sequence token, which some tokenizers add too.

    Raises:
        UserError: the chat template fails, the prompt has no token, or there is no solution for a leaky format.
    """
    text = problem_text(tokenizer, problem, fmt)
    return prompt_of_text(tokenizer, text, problem.id, plain=fmt.leaky or not has_template(tokenizer))


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


def has_template(tokenizer: Any) -> bool:
    """Return whether the tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))
