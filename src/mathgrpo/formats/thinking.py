"""Thinking that stands before a layout, and what of a completion its prompt has begun already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mathgrpo.formats.format import Format

THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
)
"""How models mark their thinking, opening and closing."""


def split_thinking(text: str, own: str = "", *, begun: bool = True) -> tuple[str | None, str]:
    """Return the thinking that a text begins with, None without one, and the text behind it.

    Thinking that never ends is all there is: "" is behind it.

    Args:
        own: the opening tag of the layout's own reasoning, which is no thinking before it.
        begun: a closing mark without its opening one ends what the prompt has begun.

    Example:
        >>> split_thinking("<think>2 + 2</think>\\n4"), split_thinking("2 + 2</think>4"), split_thinking("4")
        (('2 + 2', '4'), ('2 + 2', '4'), (None, '4'))
    """
    for opening, closing in THINKING:
        if opening == own:
            continue
        inner, ended, rest = text.partition(closing)
        if inner.lstrip().startswith(opening):
            return inner.lstrip()[len(opening) :].strip(), rest.lstrip() if ended else ""
        if ended and begun and opening not in inner:
            return inner.strip(), rest.lstrip()
    return None, text


def opened_by(prompt: str, fmt: Format, turn: str = "") -> str:
    """Return the end of a prompt that is the completion's beginning: an opened block, or an answer begun for the model.

    An empty block, which templates write where the model shall not think, is closed and so begins nothing.

    Args:
        prompt: as the model sees it.
        turn: the last turn that is not the model's; what stands behind it is the template's or the model's. Without
            it only a mark at the very end is seen.

    Example:
        >>> from mathgrpo.formats import get_format
        >>> opened_by("<user>2 + 2?<assistant><think>\\n", get_format("think"))
        '<think>\\n'
        >>> opened_by("<user>2 + 2?<assistant><think>\\n\\n</think>\\n\\n", get_format("think"))
        ''
    """
    marks = [mark for mark in (*fmt.marks, *(opening for opening, _ in THINKING)) if not mark.startswith("</")]
    if turn.strip() and turn.strip() in prompt:
        ending = prompt.rpartition(turn.strip())[2]
        start = min((place for mark in marks if (place := ending.find(mark)) >= 0), default=len(ending))
        begun = ending[start:]
    else:
        begun = next((prompt[prompt.rfind(mark) :] for mark in marks if prompt.rstrip().endswith(mark)), "")
    for opening, closing in THINKING:
        inner, ended, rest = begun.removeprefix(opening).partition(closing)
        if begun.startswith(opening) and ended and not inner.strip():
            return rest.lstrip()
    return begun
