"""Which tokens end a completion."""

from __future__ import annotations

from typing import Any

_SENTINEL = "mathgrpo-turn"


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return every id that ends a completion, ascending and without repeats.

    Models disagree on where they say it: the generation config (one id or several), the tokenizer, and the
    chat template, whose end-of-turn token may be neither. Missing one makes completions run on to the limit.
    """
    ids: set[int] = set()
    generation_config = getattr(model, "generation_config", None)
    for owner in (generation_config, model.config, tokenizer):
        ids.update(_as_ids(getattr(owner, "eos_token_id", None)))
    ids.update(_end_of_turn_ids(tokenizer))
    return tuple(sorted(ids))


def _as_ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]


def _end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Return the special token the chat template writes right after an assistant turn, if it writes one."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return []
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _SENTINEL}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:
        return []
    if _SENTINEL not in text:
        return []
    tail = text.rsplit(_SENTINEL, 1)[1].strip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    return [int(ids[0])] if ids and ids[0] in special else []
